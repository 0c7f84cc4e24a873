"""Fits of classifiers: on folds, of variants and from several seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import special

from .augmentation import augment
from .environment import free_memory
from .folds import Fold, validation_split
from .kernels import FusedAdam
from .models import logits_model


@dataclass(frozen=True)
class Samples:
    """Inputs, targets and patients of n images, in step.

    views : [k, n, ...], k copies of each image (or their features) to train on
    plain : [n, ...], the images (or features) without augmentation
    targets : float32 [n, outputs]
    patients : str [n]
    """

    views: np.ndarray
    plain: np.ndarray
    targets: np.ndarray
    patients: np.ndarray


@dataclass(frozen=True)
class Experiment:
    """What to train, and how; `dataclasses.replace` makes a variant of it.

    build : returns, for `seed=…`, a new model that ends in probabilities
    augmentation : returns, for a seed, a model that transforms images in training
    patience : of early stopping on a fifth of the training patients; None: no stopping
    """

    samples: Samples
    build: Callable[..., keras.Model]
    loss: keras.losses.Loss | str
    learning_rate: float
    epochs: int
    batch_size: int = 10
    augmentation: Callable[[int], keras.Model] | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Fit:
    """A finished fit: Keras' history, and predictions by name of the inputs."""

    history: dict[str, list[float]]
    predictions: dict[str, np.ndarray]


@dataclass(frozen=True)
class CrossValidated:
    """The fits on the folds, in order."""

    fits: list[Fit]
    folds: Sequence[Fold]

    def held_out(self, name: str = "plain") -> np.ndarray:
        """Held-out predictions for `Samples.plain`, or for other inputs in step.

        Returns
        -------
        float64 [n, outputs], NaN where no fold holds the image out.
        """
        gathered = np.full(self.fits[0].predictions[name].shape, np.nan)
        for fit, fold in zip(self.fits, self.folds, strict=True):
            gathered[fold.held_out] = fit.predictions[name][fold.held_out]
        return gathered


class ViewBatches(keras.utils.PyDataset):
    """Shuffled batches: each image once an epoch, as one of its views at random.

    Parameters
    ----------
    views : array [k, n, ...]
        k views of n images.
    targets : array [n, ...]
        In step with the images.
    batch_size : int
        The last batch of an epoch may be smaller.
    seed : int
        Together with the number of the epoch it decides order and views.
    """

    def __init__(
        self, views: np.ndarray, targets: np.ndarray, batch_size: int, seed: int
    ):
        super().__init__()
        self.views = views
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._draw()

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self.order[batch]
        return self.views[self.view[batch], rows], self.targets[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._draw()

    def _draw(self) -> None:
        rng = np.random.default_rng([self.seed, self.epoch])
        n = len(self.targets)
        self.order = rng.permutation(n)
        self.view = rng.integers(len(self.views), size=n)


def mean_history(fits: Sequence[Fit]) -> pd.DataFrame:
    """The mean of several fits' histories: a row for each epoch, from 1."""
    histories = [pd.DataFrame(fit.history) for fit in fits]
    mean = sum(histories) / len(histories)
    mean.index = pd.RangeIndex(1, len(mean) + 1, name="epoch")
    return mean


def frozen_features(base: keras.Model, images: np.ndarray) -> np.ndarray:
    """Outputs of a frozen network: float32 [n, ...]; n may be 0."""
    if len(images) == 0:
        return np.empty((0, *base.output_shape[1:]), "float32")
    return base.predict(images, verbose=0)


def augmented_features(
    base: keras.Model,
    images: np.ndarray,
    augmentation: keras.Model,
    views: int,
) -> np.ndarray:
    """Features of `views` augmented copies of each image: float32 [views, n, d]."""
    copies = [augment(augmentation, images) for _ in range(views)]
    return np.stack([frozen_features(base, copy) for copy in copies])


def cross_validate(
    experiments: Mapping[str, Experiment],
    folds: Sequence[Fold],
    seed: int,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, CrossValidated]:
    """Train each experiment on every fold; fold number k is fitted from `seed + k`.

    Fits run side by side where `joblib.parallel_config` allows it.

    Parameters
    ----------
    experiments : mapping of name to Experiment
    folds : sequence of Fold
        Some or all of a partition.
    seed : int
    inputs : mapping of name to array
        Further inputs that every fit predicts.
    """
    jobs = [
        delayed(fit_fold)(experiment, fold, seed + k, inputs)
        for experiment in experiments.values()
        for k, fold in enumerate(folds)
    ]
    fits = iter(Parallel()(jobs))
    results = {}
    for name in experiments:
        results[name] = CrossValidated([next(fits) for _ in folds], folds)
    return results


def fit_fold(
    experiment: Experiment,
    fold: Fold,
    seed: int,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Fit:
    """Train on a fold's training images; predict "plain" (all images) and `inputs`."""
    samples = experiment.samples
    to_predict = {"plain": samples.plain} | dict(inputs or {})
    train_rows = fold.train
    monitored_rows = fold.held_out
    callbacks = []
    if experiment.patience is not None:
        inner = _inner_split(samples, fold, seed)
        train_rows = fold.train[inner.train]
        monitored_rows = fold.train[inner.held_out]
        stopping = keras.callbacks.EarlyStopping(
            monitor="val_loss",
            patience=experiment.patience,
            restore_best_weights=True,
        )
        callbacks.append(stopping)
    model = experiment.build(seed=seed)
    trained = model
    if experiment.augmentation is not None:
        trained = keras.Sequential([experiment.augmentation(seed), model])
    batches = ViewBatches(
        samples.views[:, train_rows],
        samples.targets[train_rows],
        experiment.batch_size,
        seed,
    )
    trained.compile(
        optimizer=FusedAdam(experiment.learning_rate),
        loss=experiment.loss,
        metrics=["accuracy"],
        steps_per_execution=len(batches),
    )
    try:
        history = trained.fit(
            batches,
            validation_data=(
                samples.plain[monitored_rows],
                samples.targets[monitored_rows],
            ),
            epochs=experiment.epochs,
            shuffle=False,  # the batches shuffle themselves
            verbose=0,
            callbacks=callbacks,
        ).history
        predictions = {name: predict(model, x) for name, x in to_predict.items()}
    finally:
        free_memory(trained.optimizer.variables)
        free_memory(model.variables)
        # TensorFlow keeps the generator that reads these batches.
        batches.views = None
        batches.targets = None
    return Fit(history, predictions)


def predict(model: keras.Model, inputs: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Probabilities from a chain of layers that ends in a sigmoid or softmax.

    The last activation is applied in float64: in float32 the probabilities of a
    saturated network are all 0 or 1 and cannot be ranked.

    Returns
    -------
    array
        float64 [n, outputs].
    """
    linear = logits_model(model)
    logits = np.empty((len(inputs), *linear.output_shape[1:]))
    for start in range(0, len(inputs), batch_size):
        batch = slice(start, start + batch_size)
        result = linear(inputs[batch], training=False)
        logits[batch] = keras.ops.convert_to_numpy(result)
    if logits.shape[1] == 1:
        return special.expit(logits)
    return special.softmax(logits, axis=1)


def _inner_split(samples: Samples, fold: Fold, seed: int) -> Fold:
    """Split a fold's training part, to train on and to monitor for early stopping."""
    targets = samples.targets[fold.train]
    _, labels = np.unique(targets, axis=0, return_inverse=True)
    labels = labels.ravel()  # in NumPy 2.0.0 a column
    return validation_split(labels, samples.patients[fold.train], seed)
