"""What a network sees and gives: augmented views, batches of them, and features of a frozen base."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from tqdm import tqdm

from .backend import data_parallel_size, out_of_memory
from .streams import array_file, open_rows


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


def frozen_features(base, images, batch_size=16, label="features", announce=1, progress=True, file=None):
    """Run a frozen base once over images, the next batch being read while the base is at work.

    Parameters
    ----------
    base : keras.Model, the first part of `utils.chains.split_at`.
    images : [n, height, width, 3] of 0 to 255: an array, or `utils.streams.XrayFiles`, which are decoded
        batch by batch.
    batch_size : images at once; halved, and said so, where the device's memory is too small.
    announce : how many such passes the caller plans: their time is measured on the second batch and said.
        0 says nothing.
    file : path of a .npy file for features that memory would not hold; None keeps them in memory.

    Returns
    -------
    float32 array [n, ...], the base's output; memory-mapped and read-only if `file` is given.

    Raises
    ------
    MemoryError
        If not even one image fits.
    """
    if file is not None:
        with array_file(file) as write:
            for _, batch in _batches(base, images, batch_size, label, announce, progress):
                write(batch, len(images))
        return open_rows(file)
    out = None
    for start, batch in _batches(base, images, batch_size, label, announce, progress):
        if out is None:
            out = np.empty((len(images), *batch.shape[1:]), "float32")
        out[start : start + len(batch)] = batch
    return out


def _batches(base, images, size, label, announce, progress):
    """Yield (position, features) batch by batch; see `frozen_features`."""
    start, timed, n = 0, 0, len(images)
    bar = tqdm(total=n, desc=label, unit="image", file=sys.stdout, leave=False, disable=not progress)
    with ThreadPoolExecutor(1) as reader, bar:
        ahead = reader.submit(images.__getitem__, slice(0, size))
        while start < n:
            pixels, began = ahead.result(), time.perf_counter()
            ahead = reader.submit(images.__getitem__, slice(start + size, start + 2 * size))
            try:
                whole = pixels[filled(np.arange(len(pixels)), data_parallel_size())]
                batch = np.asarray(base.predict_on_batch(whole)[: len(pixels)], "float32")
            except Exception as error:  # each backend has its own class
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise MemoryError(
                        f"{base.name} does not fit the device, not even with one image"
                    ) from error
                size //= 2
                tqdm.write(f"{label}: out of memory, going on with batches of {size}", sys.stdout)
                ahead = reader.submit(images.__getitem__, slice(start, start + size))
                continue
            yield start, batch
            start, timed = start + len(batch), timed + 1
            bar.update(len(batch))
            if timed == 2 and announce and progress:  # the first batch also compiles
                seconds = (time.perf_counter() - began) * n / len(batch) * announce
                tqdm.write(
                    f"{label}: {n * announce} images through the base, about {seconds:.0f} s", sys.stdout
                )


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


def filled(rows, multiple_of):
    """Rows, cyclically repeated to a length that is a multiple of a number."""
    return np.resize(rows, -(-len(rows) // multiple_of) * multiple_of)


class ViewBatches(keras.utils.PyDataset):
    """Shuffled batches in which each image appears once an epoch, as one of its views drawn at random.

    Parameters
    ----------
    views : [k, n, ...], k views (images or their features) of n images.
    targets : [n] or [n, classes].
    batch_size : int. The last batch may be smaller; no image is dropped.
    seed : int; None leaves the images in order and shows the first view only, as for validation.
    epoch : int, the first epoch, counted from 0. An epoch's order depends on it and the seed alone, so that
        a run taken up in the middle goes on as it would have gone.
    multiple_of : fill each batch to a multiple of this many (devices) by repeating its images, and give
        weights, too: 0 for a repeated image, such that the mean loss is that of the others.
    """

    def __init__(self, views, targets, batch_size, seed, epoch=0, multiple_of=1):
        super().__init__()
        self.views, self.targets = views, targets
        self.batch_size, self.seed, self.epoch, self.multiple_of = batch_size, seed, epoch, multiple_of
        self._shuffle()

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index):
        places = np.arange(len(self.targets))[index * self.batch_size : (index + 1) * self.batch_size]
        n, places = len(places), filled(places, self.multiple_of)
        rows, views = self.order[places], self.view[places]
        batch = np.asarray(self.views[views, rows]), self.targets[rows]
        if self.multiple_of == 1:
            return batch
        weights = np.zeros(len(places), "float32")
        weights[:n] = len(places) / n  # Keras divides the sum by the length of the batch
        return *batch, weights

    def on_epoch_end(self):
        self.epoch += 1
        self._shuffle()

    def _shuffle(self):
        n = len(self.targets)
        if self.seed is None:
            self.order, self.view = np.arange(n), np.zeros(n, int)
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        self.order = rng.permutation(n)
        self.view = rng.integers(len(self.views), size=n)
