"""Random transformations of training images, built of Keras' own layers.

Each function returns a new model: images of 0 to 255, [n, size, size, 3], to images
of the same shape. It changes them when it is called with `training=True` (as `fit`
does) and leaves them as they are otherwise (as `evaluate` and `predict` do).
"""

import keras
import numpy as np
from keras import layers

BLACK = {"fill_mode": "constant", "fill_value": 0.0}


def course_augmentation(seed: int) -> keras.Sequential:
    """The transformations and ranges of the course's template, without its shear.

    The template shears by up to 0.25 degrees, less than one pixel. The two flips are
    layers of their own, because `RandomFlip("horizontal_and_vertical")` flips both
    ways or not at all, whereas the template draws the flips independently.
    """
    return keras.Sequential(
        [
            layers.RandomRotation(50 / 360, seed=seed, **BLACK),
            layers.RandomTranslation(0.2, 0.2, seed=seed + 1, **BLACK),
            layers.RandomZoom((-0.1, 0.1), (-0.1, 0.1), seed=seed + 2, **BLACK),
            layers.RandomBrightness(20 / 255, value_range=(0, 255), seed=seed + 3),
            layers.RandomFlip("horizontal", seed=seed + 4),
            layers.RandomFlip("vertical", seed=seed + 5),
        ],
        name="course_augmentation",
    )


def mild_augmentation(seed: int) -> keras.Sequential:
    """Transformations that keep a chest upright: flips left to right, small shifts."""
    return keras.Sequential(
        [
            layers.RandomRotation(10 / 360, seed=seed, **BLACK),
            layers.RandomTranslation(0.05, 0.05, seed=seed + 1, **BLACK),
            layers.RandomFlip("horizontal", seed=seed + 2),
        ],
        name="mild_augmentation",
    )


def augment(
    augmentation: keras.Model, images: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """One randomly transformed copy of every image: float32, shape of `images`."""
    copies = np.empty(images.shape, "float32")
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].astype("float32")
        transformed = augmentation(batch, training=True)
        copies[start : start + len(batch)] = keras.ops.convert_to_numpy(transformed)
    return copies
