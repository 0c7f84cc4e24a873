"""Train one classifier: batches, loss, seed. A finished fit can be taken up again."""

import sys
import time
from dataclasses import dataclass

import keras
import numpy as np
from tqdm import tqdm
from tqdm.keras import TqdmCallback

from .backend import data_parallel_size, has_gpu, out_of_memory, release
from .chains import logits_model
from .features import ViewBatches, apply
from .runs import Run, load_run, run_path, save_run


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    history : dict, metric -> one value an epoch. seconds : wall time of the training itself.
    best_weights : the weights, as `model.get_weights()` gives them, after the epoch of the lowest validation
    loss; None without validation. reused : whether a finished run was taken up instead of training.
    """

    history: dict
    seconds: float
    best_weights: list | None = None
    reused: bool = False

    @property
    def best_epoch(self):
        """The epoch, counted from 1, of the lowest validation loss."""
        return int(np.argmin(self.history["val_loss"])) + 1


class Recorder(keras.callbacks.Callback):
    """Keep the history, the times and the best weights of a run, and write them aside after every epoch."""

    def __init__(self, run, path):
        super().__init__()
        self.run, self.path = run, path

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(logs[name]) for name in ("loss", "val_loss") if name in logs):
            raise FloatingPointError(
                f"The loss is not a finite number in epoch {epoch + 1}. Lower the learning rate "
                f"(now {float(self.model.optimizer.learning_rate):g}) and build the model anew."
            )
        lowest = min(self.run.history.get("val_loss", []), default=np.inf)
        for name, value in logs.items():
            self.run.history.setdefault(name, []).append(float(value))
        self.run.seconds += time.perf_counter() - self.began
        if logs.get("val_loss", np.inf) < lowest:
            self.run.best = self.model.get_weights()
        if self.path is not None:
            self.run.state, self.run.optimizer = values(self.model), values(self.model.optimizer)
            save_run(self.path, self.run)


def values(owner):
    """All variables of a model or an optimiser as arrays: weights, and the states of dropout's generators."""
    return [keras.ops.convert_to_numpy(variable) for variable in owner.variables]


def restore(owner, arrays):
    """Give a model or an optimiser the variables that `values` returned."""
    for variable, array in zip(owner.variables, arrays, strict=True):
        variable.assign(array)


def fit_classifier(
    classifier,
    views,
    targets,
    validation,
    loss,
    learning_rate,
    epochs,
    batch_size,
    seed,
    run_folder=None,
    resumable=False,
    progress=True,
    callbacks=(),
):
    """Train a classifier (a whole model, or a head on cached features) with Adam, in place.

    The fit goes through `utils.chains.logits_model`: the loss of a saturated sigmoid or softmax has no
    gradient in float32, and the weights would never leave the corner that their first steps drove them into.

    Parameters
    ----------
    classifier : keras.Model, a chain of layers that ends in probabilities.
    views : [k, n, ...]: images of 0 to 255, or float32 features from `utils.features.view_features`.
    targets : float [n, 1] of 0 and 1 for a sigmoid, one-hot [n, classes] for a softmax.
    validation : (inputs, targets) of images that are neither trained on nor augmented, or None.
    loss : keras loss with `from_logits=True`. learning_rate, epochs, batch_size, seed : numbers.
    run_folder : where finished runs are kept and taken up again if nothing has changed; None keeps none.
    resumable : also keep the state after every epoch, so that an interrupted run goes on where it stopped.
    progress : whether a bar is shown. callbacks : further ones of Keras, called after an epoch is timed.

    Returns
    -------
    Fit

    Raises
    ------
    FloatingPointError
        If the loss is no longer a finite number.
    MemoryError
        If a batch does not fit the device.
    """
    model = logits_model(classifier)
    settings = {"loss": loss.get_config(), "rate": learning_rate, "batch": batch_size, "seed": seed}
    path = run_path(run_folder, classifier, [views, targets, validation], settings | {"epochs": epochs})
    run = load_run(path) or Run()
    if run.finished:
        restore(model, run.state)
        return Fit(run.history, run.seconds, run.best, reused=True)
    binary = model.output.shape[-1] == 1
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.0) if binary else keras.metrics.CategoricalAccuracy()
    accuracy.name = "accuracy"
    batches, held_out = _batches(views, targets, validation, batch_size, seed, run.epochs)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss,
        weighted_metrics=[accuracy],
        **_speed(classifier, len(batches)),
    )
    if run.epochs:
        restore(model, run.state)
        model.optimizer.build(model.trainable_variables)
        restore(model.optimizer, run.optimizer)
    callbacks = [Recorder(run, path if resumable else None), *callbacks]
    if progress:
        callbacks += [TqdmCallback(verbose=0, tqdm_class=tqdm, file=sys.stdout, leave=False, desc="training")]
    try:
        model.fit(
            batches,
            validation_data=held_out,
            initial_epoch=run.epochs,
            epochs=epochs,
            shuffle=False,  # ViewBatches shuffles, from its own seed
            verbose=0,
            callbacks=callbacks,
        )
    except Exception as error:  # each backend has its own class for it
        if not out_of_memory(error):
            raise
        # A smaller batch is another fit, so that it is not chosen here.
        raise MemoryError(
            f"Batches of {batch_size} do not fit the device; try a smaller batch_size."
        ) from error
    if path is not None:
        run.state, run.optimizer, run.finished = values(model), [], True
        save_run(path, run)
    release(model.optimizer.variables)
    for kept in (batches, held_out):  # TensorFlow keeps the generators that read them
        if kept is not None:
            kept.views = kept.targets = None
    return Fit(run.history, run.seconds, run.best)


def apply_best(classifier, fit, inputs):
    """What `classifier` gave for inputs after its best epoch; its weights stay those of the last one."""
    last = classifier.get_weights()
    classifier.set_weights(fit.best_weights)
    try:
        return apply(classifier, inputs)
    finally:
        classifier.set_weights(last)


def _batches(views, targets, validation, batch_size, seed, epoch):
    """The training batches, shuffled from `epoch` on, and the validation batches in order, or None."""
    devices = data_parallel_size()
    held_out = None
    if validation is not None:
        size = max(batch_size, 32 // devices * devices)
        held_out = ViewBatches(validation[0][None], validation[1], size, None, multiple_of=devices)
    return ViewBatches(views, targets, batch_size, seed, epoch, devices), held_out


def _speed(classifier, steps):
    """How Keras compiles the fit: for dense heads on a CPU all steps of an epoch in one program of XLA.

    It fuses Adam's passes over the 6.4 million weights of a VGG head, which halves the time. The random
    numbers of dropout are slow in it, and so are convolutions. Elsewhere Keras decides.
    """
    kinds = (keras.layers.InputLayer, keras.layers.Dense)
    dense = all(isinstance(layer, kinds) for layer in classifier.layers)
    if dense and not has_gpu():
        return {"jit_compile": True, "steps_per_execution": steps}
    return {"jit_compile": "auto"}
