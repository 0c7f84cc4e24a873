"""Many fits: folds, variants and seeds, one after the other, or wherever joblib's backend sends them.

`with joblib.parallel_config(backend="dask"):` around a call spreads its fits over a Dask cluster, "loky" with
`n_jobs` over processes. Every fit has its own seeds, so that the results are the same.
"""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from .backend import release
from .features import apply
from .training import fit_classifier


def cross_validate(build, views, targets, folds, label="", progress=True, **settings):
    """Fit a new classifier on each fold's training part, and predict the part held out.

    Parameters
    ----------
    build : function () -> a new, untrained keras.Model; it is emptied after its fold.
    views : [k, n, ...]; the held-out part is scored on the first view only.
    targets : as for `fit_classifier`, [n, ...].
    folds : list of (training indices, held-out indices).
    settings : the remaining arguments of `fit_classifier`.

    Returns
    -------
    probabilities : float32 [n, outputs], of each image by the model that did not train on it.
    fits : list of Fit, one a fold, without their best weights.
    """
    variant = {"build": build, "views": views}
    return compare_variants({label: variant}, targets, folds, progress, **settings)[label]


def compare_variants(variants, targets, folds, progress=True, **settings):
    """Cross-validate several variants on the same folds; see `cross_validate`.

    Parameters
    ----------
    variants : dict, name -> {"build": function, "views": array, and settings that differ from the others'}.

    Returns
    -------
    dict, name -> (probabilities, fits)
    """
    jobs = [(name, train, rest) for name in variants for train, rest in folds]

    def call(name, train, rest):
        own = settings | variants[name]
        build, views = own.pop("build"), own.pop("views")
        held_out = views[0, rest], targets[rest]
        return delayed(fit_and_predict)(build, views[:, train], targets[train], held_out, held_out[0], own)

    results = _run((call(*job) for job in jobs), len(jobs), ", ".join(variants), progress)
    out = {name: (np.full(targets.shape, np.nan, "float32"), []) for name in variants}
    for (name, _, rest), (probabilities, fit) in zip(jobs, results, strict=True):
        out[name][0][rest] = probabilities
        out[name][1].append(fit)
    return out


def fit_seeds(build, seeds, views, targets, validation, inputs, label="", progress=True, **settings):
    """Fit the same classifier from several seeds (initial weights and order of the batches).

    Parameters
    ----------
    build : function (seed) -> a new, untrained keras.Model.
    inputs : what each fitted classifier is applied to.
    views, targets, validation, settings : as for `fit_classifier`, without `seed`.

    Returns
    -------
    probabilities : float32 [seeds, inputs, outputs]. fits : list of Fit, without their best weights.
    """

    def call(seed):
        own = settings | {"seed": seed}
        return delayed(fit_and_predict)(partial(build, seed), views, targets, validation, inputs, own)

    results = _run(map(call, seeds), len(seeds), label, progress)
    return np.stack([probabilities for probabilities, _ in results]), [fit for _, fit in results]


def fit_and_predict(build, views, targets, validation, inputs, settings):
    """Build and fit one classifier, apply it to inputs, and empty it: (probabilities, Fit)."""
    classifier = build()
    fit = fit_classifier(classifier, views, targets, validation, progress=False, **settings)
    probabilities = apply(classifier, inputs)
    release(classifier.variables)
    return probabilities, replace(fit, best_weights=None)


def _run(calls, n, label, progress):
    """The results of joblib's delayed calls, in their order."""
    results = Parallel(return_as="generator")(calls)
    return list(tqdm(results, label, n, file=sys.stdout, leave=False, disable=not progress))
