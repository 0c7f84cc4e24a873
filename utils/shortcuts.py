"""What scores may rest on instead of the lungs: duplicates, file headers, borders."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .datasets import ImageSet
from .folds import grouped_folds
from .images import read_images

# Of Task 2's 305 images one pair differs in 12 of 256 bits, by eye the same radiograph,
# and the others in 52 or more. Copies that are compressed, resized, brighter, darker or
# cropped by 1 % a side differ in at most 30. With the usual 64 bits, copies and other
# radiographs overlap.
HASH_SIDE = 16
MOST_BITS = 32


def find_duplicates(paths: Sequence[Path]) -> pd.DataFrame:
    """Pairs of files that are equal, or nearly so by `imagehash.phash`.

    Copies that are mirrored, inverted or cropped by more than 2 % a side are missed,
    and 58 % of those cropped by 2 %.

    Returns
    -------
    pandas.DataFrame
        `bits` of 256 that differ, and positions `first` and `second`. The most similar
        pairs stand first.
    """
    # phash reduces an image to four times the side of its hash.
    images = read_images(paths, size=4 * HASH_SIDE)
    hashes = [imagehash.phash(Image.fromarray(x), HASH_SIDE) for x in images]
    pairs = []
    for first, second in combinations(range(len(paths)), 2):
        bits = hashes[first] - hashes[second]
        if bits <= MOST_BITS:
            pairs.append((bits, first, second))
    return pd.DataFrame(sorted(pairs), columns=["bits", "first", "second"])


def file_headers(paths: Sequence[Path]) -> np.ndarray:
    """Width, height, their ratio, channels, bytes and bits per pixel: float64 [n, 6].

    No pixel is decoded.
    """
    rows = []
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
            channels = len(image.getbands())
        n_bytes = path.stat().st_size
        density = 8 * n_bytes / (width * height)
        rows.append((width, height, width / height, channels, n_bytes, density))
    return np.array(rows)


def lung_mask(height: int, width: int) -> np.ndarray:
    """bool [height, width], True inside two boxes that stand for the lungs.

    The boxes are an assumption: by eye, they cover most of the lung fields in most of
    70 images, miss the corners of wide chests, and hold part of the heart.
    """
    boxes = np.zeros((16, 16), dtype=bool)
    boxes[2:13, 2:7] = True
    boxes[2:13, 9:14] = True
    rows = np.arange(height) * 16 // height
    columns = np.arange(width) * 16 // width
    return boxes[np.ix_(rows, columns)]


def border_mask(size: int, width: int) -> np.ndarray:
    """bool [size, size], True in a frame of that width."""
    mask = np.ones((size, size), dtype=bool)
    mask[width:-width, width:-width] = False
    return mask


def mask_images(images: np.ndarray, visible: np.ndarray, fill: int = 0) -> np.ndarray:
    """Copies of uint8 [n, h, w, 3] with all pixels filled outside of bool [h, w]."""
    masked = images.copy()
    masked[:, ~visible] = fill
    return masked


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Mean grey, 0 to 255, of 16 x 16 parts: float32 [n, 16, 16].

    Images are [n, h, w, 3], with h and w divisible by 16.
    """
    n, height, _, _ = images.shape
    parts = images.reshape(n, 16, height // 16, 16, -1)
    return parts.mean(axis=(2, 4)).astype("float32")


def shortcut_features(image_set: ImageSet, root: Path) -> dict[str, np.ndarray]:
    """What could be learnt without a lung, or without anything else: name -> [n, d].

    The files of the image set lie below root.
    """
    headers = file_headers([root / file for file in image_set.files])
    grey = thumbnails(image_set.images)
    lungs = lung_mask(16, 16)
    border = border_mask(16, width=2)
    return {
        "channel count": headers[:, [3]],
        "file header": headers,
        "thumbnail": grey.reshape(len(grey), -1),
        "thumbnail, border": grey[:, border],
        "thumbnail, lungs black": grey[:, ~lungs],
        "thumbnail, only lungs": grey[:, lungs],
    }


def shortcut_estimator(name: str) -> Pipeline:
    """A classifier for the `shortcut_features` of that name, not yet fitted.

    Five nearest neighbours for the file header, because headers form clusters, one for
    each hospital or journal.
    """
    classifier = LogisticRegression(solver="newton-cholesky")
    if name == "file header":
        classifier = KNeighborsClassifier()
    return make_pipeline(StandardScaler(), classifier)


def repeated_probabilities(
    estimator: BaseEstimator,
    features: np.ndarray,
    labels: ArrayLike,
    patients: ArrayLike,
    draws: int = 20,
    seed: int = 542,
) -> np.ndarray:
    """Held-out probabilities by five folds by patient, drawn with seed, seed + 1, ...

    Draws run side by side where `joblib.parallel_config` allows it.

    Returns
    -------
    numpy.ndarray
        float64 [draws, n, classes]
    """

    def predict(draw):
        folds = grouped_folds(labels, patients, seed=seed + draw)
        return cross_val_predict(
            estimator, features, labels, cv=folds, method="predict_proba"
        )

    probabilities = Parallel()(delayed(predict)(draw) for draw in range(draws))
    return np.array(probabilities, dtype="float64")
