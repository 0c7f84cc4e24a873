"""Folds by patient, and what is measured on them: held-out scores, nested choices, permuted labels.
Imports data and evaluation of ours."""

from collections import namedtuple
from dataclasses import replace
from itertools import combinations

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .data import DataError
from .evaluation import image_losses, multiclass_scores

Nested = namedtuple("Nested", "probabilities chosen")
Permutation = namedtuple("Permutation", "observed null chance p")


def grouped_folds(image_set, n_splits=5, seed=542):
    """Folds that keep the classes' shares and never part a patient's images: list of (train, held out)."""
    return inner_folds(image_set, np.arange(len(image_set.labels)), n_splits, seed)


def inner_folds(image_set, rows, n_splits=5, seed=542):
    """The `grouped_folds` of the images at `rows`, as sorted positions in the whole set."""
    labels, patients = image_set.labels[rows], image_set.patients[rows]
    for label, name in enumerate(image_set.class_names):
        if (n := len(np.unique(patients[labels == label]))) < n_splits:
            raise DataError(f"Class {name} has {n} patients, too few for {n_splits} folds. Remedy: fewer.")
    # Shuffled here: up to scikit-learn 1.6 the splitter's own shuffle loses the stratification.
    _, patient = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(patient.max() + 1)
    parts = StratifiedGroupKFold(n_splits).split(labels, labels, order[patient])
    return [(np.sort(rows[train]), np.sort(rows[rest])) for train, rest in parts]


def validation_split(image_set, fraction=0.2, seed=542):
    """(train, validation) positions: one of the folds of about `fraction` (at most 0.5), drawn at random."""
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction must be in (0, 0.5], got {fraction}")
    folds = grouped_folds(image_set, round(1 / fraction), seed)
    # Not the first: the splitter puts the patients with most images there, whatever the seed.
    return folds[np.random.default_rng([seed, 1]).integers(len(folds))]


def linear_probe():
    """A logistic regression on the principal components of standardised features, to be fitted."""
    return make_pipeline(StandardScaler(), PCA(0.95), LogisticRegression(C=0.01, solver="newton-cholesky"))


def held_out_probabilities(estimator, features, image_set, folds):
    """Probabilities by a clone fitted on the rest of each fold: float64 [n, classes], NaN where none is."""
    labels, probabilities = image_set.labels, np.full((len(features), len(image_set.class_names)), np.nan)

    def fit(train, rest):
        fitted = clone(estimator).fit(features[train], labels[train])
        p = np.zeros((len(rest), probabilities.shape[1]))
        p[:, fitted.classes_] = fitted.predict_proba(features[rest])
        return p

    for (_, rest), p in zip(folds, Parallel()(delayed(fit)(*fold) for fold in folds), strict=True):
        probabilities[rest] = p
    return probabilities


def repeated_scores(estimator, features, image_set, n_splits, repeats, seed, grouped=True):
    """`multiclass_scores` over folds that are drawn anew from seed, seed + 1, …
    grouped=False takes every image for a patient of its own in the folds, as most submissions do."""
    split = image_set if grouped else replace(image_set, patients=image_set.files)
    folds = [grouped_folds(split, n_splits, seed + repeat) for repeat in range(repeats)]
    p = [held_out_probabilities(estimator, features, image_set, one) for one in folds]
    return multiclass_scores(image_set.labels, np.stack(p), image_set.patients, seed)


def mixtures(probabilities):
    """Each of a dict of name -> array or list of arrays, and the mean of every subset: "a", "b", "a + b"."""
    subsets = [c for size in range(1, len(probabilities) + 1) for c in combinations(probabilities, size)]
    return {" + ".join(names): np.mean([probabilities[name] for name in names], axis=0) for names in subsets}


def nested_choice(inner, outer, labels, folds):
    """Choose by the lowest log loss anew in every outer fold: no image is scored that took part in a choice.
    inner: of each fold a dict, name -> [n, k], held out within its training part and NaN elsewhere; outer:
    name -> [n, k], held out by `folds`. Returns Nested: probabilities [n, k], names by fold."""
    probabilities, chosen = np.full(np.shape(next(iter(outer.values()))), np.nan), []
    for k, (train, rest) in enumerate(folds):
        losses = {}
        for name in outer:
            if np.isfinite(inner[k][name][rest]).any():
                raise ValueError(f"{name}: the inner predictions of fold {k} reach into its held-out part")
            losses[name] = image_losses(labels[train], inner[k][name][train]).mean()
        chosen.append(min(losses, key=losses.get))
        probabilities[rest] = outer[chosen[-1]][rest]
    return Nested(probabilities, chosen)


def permutation_test(estimator, features, image_set, n_splits, seed, permutations=100):
    """Is the held-out accuracy higher on the true labels than on labels that are shuffled between patients?
    The images of a patient keep a common label, else they would be easier to tell. Returns Permutation, with
    p as of Phipson and Smyth (2010), and chance: what always guessing the commonest shuffled label scores, on
    average of 1,000 shufflings (above its true share, as patients differ in their number of images)."""
    bare = replace(image_set, images=image_set.labels)  # workers need no pixels

    def accuracy(labels):
        shuffled = replace(bare, labels=labels)
        p = held_out_probabilities(estimator, features, shuffled, grouped_folds(shuffled, n_splits, seed))
        return (p.argmax(1) == labels).mean()

    # A patient with images of two classes counts as two here, so that every class keeps its units.
    code = np.unique(image_set.patients, return_inverse=True)[1] * len(image_set.class_names)
    _, first, unit = np.unique(code + image_set.labels, return_index=True, return_inverse=True)
    rng, of_unit = np.random.default_rng(seed), image_set.labels[first]
    draws = [rng.permutation(of_unit)[unit] for _ in range(max(1000, permutations))]
    null = np.array(Parallel()(delayed(accuracy)(labels) for labels in draws[:permutations]))
    observed, chance = accuracy(image_set.labels), np.mean([np.bincount(labels).max() for labels in draws])
    p = (1 + (null >= observed).sum()) / (1 + permutations)
    return Permutation(float(observed), null, float(chance / len(unit)), float(p))
