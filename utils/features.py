"""What a network sees and gives: augmented views, batches of them, and features of a frozen base."""

import sys
import time

import keras
import numpy as np
from tqdm import tqdm


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
    uint8 array of the same shape, 0 to 255.
    """
    layers = [
        keras.layers.RandomRotation(7 / 360, fill_mode="constant", seed=seed),
        keras.layers.RandomTranslation(0.05, 0.05, fill_mode="constant", seed=seed + 1),
        keras.layers.RandomZoom(0.1, fill_mode="constant", seed=seed + 2),
        keras.layers.RandomContrast(0.1, value_range=(0, 255), seed=seed + 3),
    ]
    views = np.empty(images.shape, "uint8")
    for start in range(0, len(images), 32):  # in slices, so that memory does not grow with n
        x = keras.ops.cast(images[start : start + 32], "float32")
        for layer in layers:
            x = layer(x, training=True)
        views[start : start + 32] = np.clip(np.rint(keras.ops.convert_to_numpy(x)), 0, 255)
    return views


def image_views(images, n_views, seed):
    """The images and `n_views` augmented views of each: uint8 [1 + n_views, n, height, width, 3]."""
    return np.stack([images, *(augment(images, seed + 10 * k) for k in range(n_views))])


def frozen_features(base, images, batch_size=16, label="features", announce=1, progress=True):
    """Run a frozen base once over images.

    Parameters
    ----------
    base : keras.Model, the first part of `utils.chains.split_at`.
    images : [n, height, width, 3] of 0 to 255.
    announce : how many such passes the caller plans: their time is measured on the second batch and said.
        0 says nothing.

    Returns
    -------
    float32 array [n, ...], the base's output.
    """
    out, starts = None, range(0, len(images), batch_size)
    for k, start in enumerate(tqdm(starts, desc=label, file=sys.stdout, leave=False, disable=not progress)):
        began = time.perf_counter()
        batch = base.predict_on_batch(images[start : start + batch_size])
        if out is None:
            out = np.empty((len(images), *batch.shape[1:]), "float32")
        out[start : start + batch_size] = batch
        if k == 1 and announce and progress:  # the first batch also compiles
            seconds = (time.perf_counter() - began) * len(images) / batch_size * announce
            tqdm.write(
                f"{label}: {len(images) * announce} images through the base, about {seconds:.0f} s",
                sys.stdout,
            )
    return out


def apply(model, inputs, batch_size=8):
    """A model's output for arrays, in batches, as a NumPy array; nothing is compiled for it.

    So all activations of a batch are in memory at once: 50 MB an image in MobileNet, hence the small batches.
    """
    starts = range(0, len(inputs), batch_size)
    parts = [model(inputs[start : start + batch_size], training=False) for start in starts]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


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
    views : [k, n, ...], k views (images or their features) of n images.
    targets : [n] or [n, classes].
    batch_size, seed : int. The last batch may be smaller; no image is dropped.
    epoch : int, the first epoch, counted from 0. An epoch's order depends on it and the seed alone, so that
        a run taken up in the middle goes on as it would have gone.
    """

    def __init__(self, views, targets, batch_size, seed, epoch=0):
        super().__init__()
        self.views, self.targets = views, targets
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch
        self._shuffle()

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.views[self.view[rows], rows], self.targets[rows]

    def on_epoch_end(self):
        self.epoch += 1
        self._shuffle()

    def _shuffle(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        self.order = rng.permutation(len(self.targets))
        self.view = rng.integers(len(self.views), size=len(self.targets))
