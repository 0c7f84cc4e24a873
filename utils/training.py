"""Fits: of one classifier, on folds, of variants and from seeds; finished ones are reused.
Imports session, models and features of ours. `with joblib.parallel_config(backend="dask"):` around a call
spreads its fits over a cluster, `"loky"` with `n_jobs` over processes; on a CPU with the same results."""

import sys
import warnings
from collections import namedtuple
from datetime import timedelta
from functools import partial
from pathlib import Path

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
# A finished fit: Keras' history (metric -> a value an epoch), and the outputs for `inputs` by the weights of
# the last epoch and by their mean over the last ones (None: not asked for).
Fitted = namedtuple("Fitted", "history probabilities averaged")
# The output for each row by the model that held it out (NaN: none did), and a history a fold.
CrossValidated = namedtuple("CrossValidated", "probabilities histories")


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam (dense, no AMSGrad) by TensorFlow's one kernel: a head's step takes half the time."""

    def update_step(self, gradient, variable, learning_rate):
        if session.BACKEND != "tensorflow":
            return super().update_step(gradient, variable, learning_rate)
        k, step = self._get_variable_index(variable), keras.ops.cast(self.iterations + 1, "float32")
        m, v = self._momentums[k].value.handle, self._velocities[k].value.handle
        options = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon, "lr": learning_rate}
        options |= {"beta1_power": self.beta_1**step, "beta2_power": self.beta_2**step, "grad": gradient}
        session.tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, **options)


class ProgressBar(keras.callbacks.Callback):
    """One bar for all epochs, which stays; FloatingPointError where a loss is no longer a finite number."""

    def __init__(self, label, show=True):
        super().__init__()
        self.label, self.show = label, show

    def on_train_begin(self, logs=None):
        epochs = self.params["epochs"]
        self.bar = tqdm(desc=self.label, total=epochs, unit="epoch", file=sys.stdout, disable=not self.show)

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite([logs["loss"], logs.get("val_loss", 0)]).all():
            raise FloatingPointError(f"no finite loss in epoch {epoch + 1}: lower the rate and build anew")
        self.bar.set_postfix(logs, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


class WeightAverage(keras.callbacks.Callback):
    """The mean of a model's weights at the ends of its last epochs (Izmailov et al., 2018), as `weights`.
    The moving statistics of batch normalisations are among them. The fit itself is not changed."""

    def __init__(self, last):
        super().__init__()
        self.last, self.weights, self.count = last, None, 0

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.params["epochs"] - self.last:
            now, self.count = self.model.get_weights(), self.count + 1
            mean = now if self.weights is None else self.weights
            self.weights = [m + (w - m) / self.count for m, w in zip(mean, now, strict=True)]


def fit_classifier(build, views, targets, inputs, validation=None, memory=None, **settings):
    """Build a classifier, train it with Adam, and apply it to `inputs`: Fitted.
    `build` returns a new model that ends in probabilities and is emptied at the end; `views`, `targets` as
    for `ViewBatches`; `validation` (inputs, targets). Settings: `loss` (from logits), `learning_rate`,
    `epochs`, `batch_size`, `seed`, and `average`, over how many last epochs to average the weights, too. With
    `memory`, from `fit_memory`, a finished fit of the same is reused."""
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
    (training rows, held-out rows). What is held out is scored as it is, on its first view."""
    jobs = [(name, train, rest) for name in variants for train, rest in folds]

    def arguments(name, train, rest):
        own = settings | variants[name] | {"targets": targets[train], "memory": memory}
        views, held_out = own["views"], (own["views"][0, rest], targets[rest])
        return own | {"views": views[:, train], "inputs": held_out[0], "validation": held_out}

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


def fit_repeats(build, x, targets, folds, more, seed, memory=None, progress=True, **settings):
    """Repeat a fit, `build(seed)`, without each of the folds, from seed, seed + 1, and so on: list of Fitted.
    Each has the outputs for the images that its fold holds out, and after them for those of `more`."""

    def arguments(seed, train, rest):
        own = settings | {"build": partial(build, seed), "seed": seed, "memory": memory}
        own |= {"views": x[None, train], "targets": targets[train], "validation": (x[rest], targets[rest])}
        return own | {"inputs": np.concatenate([x[rest], more])}

    jobs = (arguments(seed + k, *fold) for k, fold in enumerate(folds))
    return _fits(jobs, len(folds), f"{len(folds)} repeats", progress)


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


def _train(model, data, *, loss, learning_rate, epochs, batch_size, seed, average=0):
    """A fit, and whether it took all its steps."""
    views, targets, inputs, validation = data
    logits, batches = logits_model(model), ViewBatches(views, targets, batch_size, seed)
    held_out = validation and ViewBatches(validation[0][None], validation[1], max(batch_size, 32), None)
    optimizer, accuracy = FusedAdam(learning_rate), keras.metrics.CategoricalAccuracy("accuracy")
    if model.output_shape[-1] == 1:
        accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
    logits.compile(optimizer, loss, metrics=[accuracy], steps_per_execution=len(batches))
    callbacks = [ProgressBar("", show=False), WeightAverage(average)]
    options = {"epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    history = logits.fit(batches, validation_data=held_out, **options).history
    whole = int(optimizer.iterations) == epochs * len(batches)
    session.release(optimizer.variables)
    for kept in (batches, held_out or batches):  # TensorFlow keeps the generators that read them
        kept.views = kept.targets = None
    last, averaged = apply(model, inputs), None
    if callbacks[1].weights:
        logits.set_weights(callbacks[1].weights)
        averaged = apply(model, inputs)
    return Fitted(history, last, averaged), whole
