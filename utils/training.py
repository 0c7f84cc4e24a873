"""Fits: of one classifier, on folds, of variants and from seeds; finished ones are reused.

May import: session, losses, weights, models, features. `with joblib.parallel_config(backend="dask"):` around
a call spreads its fits over a cluster, `"loky"` with `n_jobs` over processes, with the same results."""

import sys
import warnings
from collections import namedtuple
from datetime import timedelta
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import joblib
import keras
import numpy as np
from tqdm import tqdm

from . import session
from .features import ViewBatches, apply
from .models import logits_model

# Read at import, so that a file that is edited while a notebook runs does not change what is reused.
CODE = ("losses.py", "weights.py", "models.py", "features.py", "training.py")
CODE = [Path(__file__).with_name(name).read_text("utf-8") for name in CODE]
STARTS = WeakKeyDictionary()  # a model or an optimiser -> the values with which its first fit began
# A finished fit: Keras' history (metric -> a value an epoch), and the outputs for `inputs`.
Fitted = namedtuple("Fitted", "history probabilities")
# The output for each row by the model that held it out (NaN: none did), and a history a fold.
CrossValidated = namedtuple("CrossValidated", "probabilities histories")


class ProgressBar(keras.callbacks.Callback):
    """One bar for all epochs, which stays; FloatingPointError where a loss is no longer a finite number.

    With the fit's `batches` (ViewBatches), a fit that is run again begins where the first one began.
    """

    def __init__(self, label, batches=None, show=True):
        super().__init__()
        self.label, self.batches, self.show = label, batches, show
        if batches is not None:
            batches.restart()  # here, for a fit fetches its first batches before it calls anything

    def on_train_begin(self, logs=None):
        epochs = self.params["epochs"]
        self.bar = tqdm(desc=self.label, total=epochs, unit="epoch", file=sys.stdout, disable=not self.show)
        self.model.optimizer.build(self.model.trainable_variables)
        for owner in (self.model, self.model.optimizer) if self.batches is not None else ():
            now = [keras.ops.convert_to_numpy(variable) for variable in owner.variables]
            for variable, start in zip(owner.variables, STARTS.setdefault(owner, now), strict=True):
                variable.assign(start)

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite([logs["loss"], logs.get("val_loss", 0)]).all():
            raise FloatingPointError(f"no finite loss in epoch {epoch + 1}: lower the rate and build anew")
        self.bar.set_postfix(logs, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def speed(model, steps):
    """How to compile a fit: dense heads on a CPU by XLA, an epoch in one program, which halves the time."""
    plain = ("InputLayer", "Rescaling", "Dense", "Logits")  # dropout and convolutions are slow in it
    if session.has_gpu() or not all(type(layer).__name__ in plain for layer in model.layers):
        return {"jit_compile": "auto"}
    return {"jit_compile": True, "steps_per_execution": steps}


def fit_classifier(build, views, targets, inputs, validation=None, memory=None, **settings):
    """Build a classifier, train it with Adam, and apply it to `inputs`: Fitted.

    `build` returns a new model that ends in probabilities and is emptied at the end; `views`, `targets` as
    for `ViewBatches`; `validation` (inputs, targets). Settings: `loss` (from logits), `learning_rate`,
    `epochs`, `batch_size`, `seed`; `cosine` lets the rate fall to 0, `average_views` takes the mean output of
    `inputs` [k, m, ...]. With `memory`, from `fit_memory`, a finished fit of the same is reused. MemoryError
    if a batch does not fit the device.
    """
    model, data, done = build(), (views, targets, inputs, validation), []

    def fit(key):
        fitted, whole = _train(model, data, **settings)
        done.append(fitted)
        if not whole:  # fewer epochs or steps than asked for, as under KERAS_MAX_EPOCHS: nothing to keep
            raise InterruptedError
        return fitted

    try:
        if memory is None or memory.location is None:
            done.append(fit(None))
        else:
            done.append(memory.cache(fit)(_digest(model, data, settings)))
    except InterruptedError:
        pass
    except OSError as error:
        warnings.warn(f"This fit is not kept: {error}", stacklevel=2)
        done = done or [_train(build(), data, **settings)[0]]
    session.release(model.variables)
    return done[0]


def cross_validate(variants, targets, folds, memory=None, progress=True, **settings):
    """Fit variants of a classifier on the training part of each fold: dict, name -> CrossValidated.

    `variants` map a name to {"build": function, "views": [k, n, ...], and settings that differ}; `folds` are
    (training rows, held-out rows). What is held out is scored as it is, on its first view, or, with
    `average_views`, by the mean of the outputs for all its views.
    """
    jobs = [(name, train, rest) for name in variants for train, rest in folds]

    def arguments(name, train, rest):
        own = settings | variants[name] | {"targets": targets[train], "memory": memory}
        views, held_out = own["views"], (own["views"][0, rest], targets[rest])
        inputs = views[:, rest] if own.get("average_views") else held_out[0]
        return own | {"views": views[:, train], "inputs": inputs, "validation": held_out}

    out = {name: CrossValidated(np.full(targets.shape, np.nan, "float32"), []) for name in variants}
    results = _fits((arguments(*job) for job in jobs), len(jobs), f"{len(variants)} variants", progress)
    for (name, _, rest), fitted in zip(jobs, results, strict=True):
        out[name].probabilities[rest] = fitted.probabilities
        out[name].histories.append(fitted.history)
    return out


def head_variants(build, views, changes):
    """Variants of a head, for `cross_validate`; of their `changes`, `dropout` and `scale` are the head's."""

    def variant(dropout=0.0, scale=1.0, **rest):
        return {"build": partial(build, dropout=dropout, scale=scale), "views": views} | rest

    return {name: variant(**change) for name, change in changes.items()}


def fit_seeds(build, seeds, views, targets, inputs, validation=None, memory=None, progress=True, **settings):
    """Fit the same classifier, `build(seed)`, from several seeds: list of Fitted."""
    settings |= {"views": views, "targets": targets, "inputs": inputs, "validation": validation}
    jobs = [settings | {"build": partial(build, seed), "seed": seed, "memory": memory} for seed in seeds]
    return _fits(jobs, len(jobs), f"{len(jobs)} seeds", progress)


def fit_memory(cache_dir, fresh=False):
    """Where finished fits are kept: `joblib.Memory` in a folder, bounded, or, if `fresh`, nowhere."""
    try:
        memory = joblib.Memory(None if fresh else Path(cache_dir) / "fits", verbose=0)
        memory.reduce_size("64M", age_limit=timedelta(days=30))
        return memory
    except OSError as error:
        warnings.warn(f"Fits are not kept: {error}", stacklevel=2)
        return joblib.Memory(None, verbose=0)


def _fits(jobs, n, label, progress):
    """The fits of n dicts of arguments, in their order."""
    fits = joblib.Parallel(return_as="generator")(joblib.delayed(fit_classifier)(**job) for job in jobs)
    return list(tqdm(fits, label, n, unit="fit", file=sys.stdout, disable=not progress))


def _digest(model, data, settings):
    """A key of all that decides a fit; layers are numbered, for Keras counts up the names that it gives."""
    text, names, layers = model.to_json(), {}, [model]
    while layers:
        layer = layers.pop(0)
        layers += getattr(layer, "layers", ())
        text = text.replace(f'"{layer.name}"', f'"#{names.setdefault(layer.name, len(names))}"')
    start = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    settings = settings | {"loss": keras.saving.serialize_keras_object(settings["loss"])}
    return joblib.hash([text, start, data, settings, CODE, session.describe_machine()])


def _train(model, data, *, loss, learning_rate, epochs, batch_size, seed, cosine=False, average_views=False):
    """A fit, and whether it took all its steps."""
    views, targets, inputs, validation = data
    logits, batches = logits_model(model), ViewBatches(views, targets, batch_size, seed)
    held_out = validation and ViewBatches(validation[0][None], validation[1], max(batch_size, 32), None)
    steps = epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps) if cosine else learning_rate
    optimizer, accuracy = keras.optimizers.Adam(rate), keras.metrics.CategoricalAccuracy("accuracy")
    if model.output_shape[-1] == 1:
        accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
    logits.compile(optimizer, loss, metrics=[accuracy], **speed(logits, len(batches)))
    options = {"epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": [ProgressBar("", show=False)]}
    try:
        history = logits.fit(batches, validation_data=held_out, **options).history
    except Exception as error:  # each backend has its own class
        if session.out_of_memory(error):  # a smaller batch is another fit, so that it is not chosen here
            raise MemoryError(f"batches of {batch_size} do not fit the device: try a smaller one") from error
        raise
    whole = int(optimizer.iterations) == steps
    session.release(optimizer.variables)
    for kept in (batches, held_out or batches):  # TensorFlow keeps the generators that read them
        kept.views = kept.targets = None
    shown = inputs if average_views else [inputs]
    return Fitted(history, np.mean([apply(model, x) for x in shown], axis=0)), whole
