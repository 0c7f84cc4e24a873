"""What a network sees and gives: batches of views, and features of a frozen base. Imports nothing of ours."""

import sys

import keras
import numpy as np
from tqdm import tqdm


def frozen_features(base, images, batch_size=16, label="features", progress=True):
    """Run a frozen base over images once: float32 [n, ...], its output.
    A batch that does not fit the device is halved, and that is said; MemoryError if one image does not."""
    out, start = np.empty((len(images), *base.output_shape[1:]), "float32"), 0
    with tqdm(total=len(images), desc=label, unit="image", file=sys.stdout, disable=not progress) as bar:
        while start < len(images):
            try:
                batch = base.predict_on_batch(images[start : start + batch_size])
            except Exception as error:  # each backend has its own class
                if not ("RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__):
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
    shows the first view, as for validation."""

    def __init__(self, views, targets, batch_size, seed):
        super().__init__()
        self.views, self.targets, self.batch_size, self.seed = views, targets, batch_size, seed
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
