"""What a network sees and gives: augmented views, batches of them, and features of a frozen base.

May import: session."""

import sys

import keras
import numpy as np
from tqdm import tqdm

from .session import out_of_memory


def augment(images, seed):
    """One randomly altered view of each image, as a radiographer might have taken it: uint8, 0 to 255.

    Rotation up to 7 degrees, shift up to 5 %, zoom up to 10 %, contrast up to 10 %. No flip: the heart lies
    on one side, and a patient stands upright.
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


def frozen_features(base, images, batch_size=16, label="features", progress=True):
    """Run a frozen base over images once: float32 [n, ...], its output.

    Where a batch does not fit the device it is halved, and that is said; MemoryError if one image does not.
    """
    out, start = np.empty((len(images), *base.output_shape[1:]), "float32"), 0
    with tqdm(total=len(images), desc=label, unit="image", file=sys.stdout, disable=not progress) as bar:
        while start < len(images):
            try:
                batch = base.predict_on_batch(images[start : start + batch_size])
            except Exception as error:  # each backend has its own class
                if not out_of_memory(error):
                    raise
                if batch_size == 1:
                    raise MemoryError(f"{base.name} does not fit the device, even with one image") from error
                batch_size //= 2
                bar.write(f"{label}: out of memory, going on with batches of {batch_size}", sys.stdout)
                continue
            out[start : start + len(batch)] = batch
            start += len(batch)
            bar.update(len(batch))
    return out


def apply(model, inputs, batch_size=8):
    """A model's output as a NumPy array, without compiling: small batches, for all activations are kept."""
    starts = range(0, len(inputs), batch_size)
    parts = [model(inputs[start : start + batch_size], training=False) for start in starts]
    empty = np.empty((0, *model.output_shape[1:]), "float32")
    return np.concatenate([empty, *map(keras.ops.convert_to_numpy, parts)])


class ViewBatches(keras.utils.PyDataset):
    """Shuffled batches in which each image appears once an epoch, as one of its views drawn at random.

    `views` are [k, n, ...], k views (images or features) of n images; `targets` [n] or [n, classes]. The last
    batch may be smaller. The seed and the epoch alone decide; a seed of None leaves the images in order and
    shows the first view, as for validation. `restart` begins with the first epoch again.
    """

    def __init__(self, views, targets, batch_size, seed):
        super().__init__()
        self.views, self.targets, self.batch_size, self.seed = views, targets, batch_size, seed
        self.restart()

    def restart(self):
        self.epoch = -1
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows, views = self.order[part], self.view[part]
        return np.asarray(self.views[views, rows]), self.targets[rows]

    def on_epoch_end(self):
        self.epoch += 1
        n = len(self.targets)
        self.order, self.view = np.arange(n), np.zeros(n, int)
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, self.epoch])
            self.order, self.view = rng.permutation(n), rng.integers(len(self.views), size=n)
