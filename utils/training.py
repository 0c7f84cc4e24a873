"""Training: seeds, features of a frozen base, augmented views, and fits of a head on them."""

import sys
import time
from dataclasses import dataclass

import keras
import numpy as np
from tqdm import tqdm
from tqdm.keras import TqdmCallback

from .models import logits_model


def has_gpu():
    """Whether the backend sees a GPU."""
    return any("gpu" in device.lower() for device in keras.distribution.list_devices())


def set_seeds(seed):
    """Seed Python, NumPy and the backend, and make runs repeatable on the same hardware.

    TensorFlow's deterministic operations are switched on for a GPU only: on a CPU the operations used here
    repeat bit for bit as they are (tested), and the switch would forbid XLA, which halves the time of a fit.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow" and has_gpu():
        from tensorflow.config import experimental

        experimental.enable_op_determinism()


def augment(images, seed):
    """One randomly altered view of each image, as a radiographer might have taken it.

    Rotation up to 7 degrees, shift up to 5 %, zoom up to 10 %, contrast up to 10 %. No flip: the heart lies
    on one side, and a patient stands upright.

    Parameters
    ----------
    images : [n, height, width, 3] of 0 to 255.
    seed : int; the same seed gives the same views.

    Returns
    -------
    float32 array of the same shape, 0 to 255.
    """
    layers = [
        keras.layers.RandomRotation(7 / 360, fill_mode="constant", seed=seed),
        keras.layers.RandomTranslation(0.05, 0.05, fill_mode="constant", seed=seed + 1),
        keras.layers.RandomZoom(0.1, fill_mode="constant", seed=seed + 2),
        keras.layers.RandomContrast(0.1, value_range=(0, 255), seed=seed + 3),
    ]
    views = np.empty(images.shape, "float32")
    for start in range(0, len(images), 32):  # in slices, so that memory does not grow with n
        x = keras.ops.cast(images[start : start + 32], "float32")
        for layer in layers:
            x = layer(x, training=True)
        views[start : start + 32] = keras.ops.convert_to_numpy(x)
    return np.clip(views, 0, 255)


def frozen_features(base, images, batch_size=16, label="features", announce=1, progress=True):
    """Run a frozen base once over images.

    Parameters
    ----------
    base : keras.Model, the first part of `utils.models.split_at`.
    images : [n, height, width, 3] of 0 to 255.
    announce : how many such passes the caller plans: their time is measured on a batch and said beforehand.
        0 says nothing.

    Returns
    -------
    float32 array [n, ...], the base's output.
    """
    starts = range(0, len(images), batch_size)
    first = base.predict_on_batch(images[:batch_size])  # compiles, so that the next one tells the time
    if announce and progress:
        began = time.perf_counter()
        base.predict_on_batch(images[:batch_size])
        seconds = (time.perf_counter() - began) * len(images) / batch_size * announce
        print(f"{label}: {len(images) * announce} images through the frozen base, about {seconds:.0f} s")
    out = np.empty((len(images), *first.shape[1:]), "float32")
    for start in tqdm(starts, desc=label, file=sys.stdout, leave=False, disable=not progress):
        out[start : start + batch_size] = base.predict_on_batch(images[start : start + batch_size])
    return out


def apply(model, features):
    """A small model's output for cached features, as a NumPy array; nothing is compiled for it."""
    return keras.ops.convert_to_numpy(model(features, training=False))


def view_features(base, images, n_views, seed, batch_size=16, progress=True):
    """Features of the images and of `n_views` augmented views of each.

    Returns
    -------
    float32 array [1 + n_views, n, ...]; the first entry is of the images as they are.
    """
    out = [frozen_features(base, images, batch_size, "features", 1 + n_views, progress)]
    for k in range(n_views):
        views = augment(images, seed + 10 * k)  # one set of views at a time, so that memory does not grow
        out.append(frozen_features(base, views, batch_size, f"view {k + 1} of {n_views}", 0, progress))
    return np.stack(out)


class ViewBatches(keras.utils.PyDataset):
    """Shuffled batches in which each image appears once an epoch, as one of its views drawn at random.

    Parameters
    ----------
    views : [k, n, ...] features of k views of n images.
    targets : [n] or [n, classes].
    batch_size, seed : int. The last batch may be smaller; no image is dropped.
    """

    def __init__(self, views, targets, batch_size, seed):
        super().__init__()
        self.views, self.targets, self.batch_size = views, targets, batch_size
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.views[self.view[rows], rows], self.targets[rows]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.targets))
        self.view = self.rng.integers(len(self.views), size=len(self.targets))


@dataclass(frozen=True)
class Fit:
    """A finished fit: `history` (metric -> one value an epoch) and `seconds` of wall time."""

    history: dict
    seconds: float

    @property
    def best_epoch(self):
        """The epoch, counted from 1, of the lowest validation loss."""
        return int(np.argmin(self.history["val_loss"])) + 1


def fit_head(head, views, targets, validation, loss, learning_rate, epochs, batch_size, seed, progress=True):
    """Train a head with Adam on cached features, in place.

    The fit goes through `utils.models.logits_model`: the loss of a saturated sigmoid or softmax has no
    gradient in float32, and the head would never leave the corner that its first steps drove it into.

    Parameters
    ----------
    head : keras.Model, the second part of `utils.models.split_at`, ending in probabilities.
    views : float32 [k, n, ...], as `view_features` gives them.
    targets : float [n, 1] of 0 and 1 for a sigmoid, one-hot [n, classes] for a softmax.
    validation : (features, targets) of images that are neither trained on nor augmented.
    loss : keras loss with `from_logits=True`.
    learning_rate, epochs, batch_size, seed : numbers.

    Returns
    -------
    Fit

    Raises
    ------
    FloatingPointError
        If the loss is no longer a finite number.
    """
    model = logits_model(head)
    binary = model.output.shape[-1] == 1
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.0) if binary else keras.metrics.CategoricalAccuracy()
    accuracy.name = "accuracy"
    # On a CPU, XLA fuses Adam's passes over the 6.4 million weights: half the time. Its random numbers, which
    # dropout needs, are slow there; for a GPU Keras decides.
    random = any(isinstance(layer, keras.layers.Dropout) for layer in head.layers)
    jit = "auto" if random or has_gpu() else True
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=[accuracy], jit_compile=jit)
    bar = TqdmCallback(verbose=0, tqdm_class=tqdm, file=sys.stdout, leave=False, desc="training")
    began = time.perf_counter()
    fitted = model.fit(
        ViewBatches(views, targets, batch_size, seed),
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # ViewBatches shuffles, from its own seed
        verbose=0,
        callbacks=[bar] if progress else [],
    )
    history = {name: [float(v) for v in values] for name, values in fitted.history.items()}
    finite = np.isfinite(history["loss"])
    if not finite.all():
        raise FloatingPointError(
            f"The training loss is not a finite number from epoch {int(np.argmin(finite)) + 1} on. Lower the "
            f"learning rate (now {learning_rate}) and build the model anew."
        )
    return Fit(history, time.perf_counter() - began)


def cross_validate_head(build_head, views, targets, folds, label="", progress=True, **settings):
    """Fit a new head on each fold's training part, and score the part held out after every epoch.

    Parameters
    ----------
    build_head : function () -> a new, untrained keras.Model.
    views : float32 [k, n, ...]; the held-out part is scored on the first view only.
    targets : as for `fit_head`, [n, ...].
    folds : list of (training indices, held-out indices).
    settings : the remaining arguments of `fit_head`.

    Returns
    -------
    list of Fit, one a fold.
    """
    return [
        fit_head(
            build_head(),
            views[:, train],
            targets[train],
            (views[0, rest], targets[rest]),
            progress=False,
            **settings,
        )
        for train, rest in tqdm(folds, desc=label, file=sys.stdout, leave=False, disable=not progress)
    ]
