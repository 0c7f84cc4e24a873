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
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .datasets import ImageSet
from .folds import grouped_folds, held_out_probabilities
from .images import ImageError, git_blob_sha1, read_images

# Of Task 2's 305 images one pair differs in 12 of 256 bits, by eye the same radiograph,
# and the others in 52 or more. Copies that are compressed, resized, brighter, darker or
# cropped by 1 % a side differ in at most 30. With the usual 64 bits, copies and other
# radiographs overlap.
HASH_SIDE = 16
MOST_BITS = 32

# Top, bottom, left and right of both lungs as fractions of the image, an assumption: by
# eye, the boxes cover most of the lung fields in most of 70 images, miss the corners of
# wide chests, and hold part of the heart.
LUNG_BOXES = (
    (2 / 16, 13 / 16, 2 / 16, 7 / 16),
    (2 / 16, 13 / 16, 9 / 16, 14 / 16),
)


def find_duplicates(paths: Sequence[Path]) -> pd.DataFrame:
    """Pairs of files that are equal, or nearly so by `imagehash.phash`.

    Copies that are mirrored, inverted or cropped by more than 2 % a side are missed,
    and 58 % of those cropped by 2 %.

    Returns
    -------
    pandas.DataFrame
        Positions `first` and `second`, `bits` of 256 that differ, and whether the files
        are `identical`. The most similar pairs stand first.
    """
    # phash reduces an image to four times the side of its hash.
    images = read_images(paths, size=4 * HASH_SIDE)
    hashes = [imagehash.phash(Image.fromarray(x), HASH_SIDE) for x in images]
    digests = [git_blob_sha1(path) for path in paths]
    rows = []
    for first, second in combinations(range(len(paths)), 2):
        bits = hashes[first] - hashes[second]
        if bits <= MOST_BITS:
            identical = digests[first] == digests[second]
            rows.append((first, second, bits, identical))
    table = pd.DataFrame(rows, columns=["first", "second", "bits", "identical"])
    return table.sort_values(
        by=["bits", "identical"],
        ascending=[True, False],
        ignore_index=True,
    )


def file_headers(paths: Sequence[Path]) -> np.ndarray:
    """Width, height, their ratio, channels, bytes and bits per pixel: float64 [n, 6].

    No pixel is decoded.
    """
    rows = []
    for path in paths:
        try:
            with Image.open(path) as image:
                width, height = image.size
                channels = len(image.getbands())
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise ImageError(
                f"{path} has no readable header: {error}. Remedy: restore or remove it."
            ) from error
        n_bytes = path.stat().st_size
        row = (
            width,
            height,
            width / height,
            channels,
            n_bytes,
            8 * n_bytes / (width * height),
        )
        rows.append(row)
    return np.array(rows, dtype="float64").reshape(-1, 6)


def lung_mask(height: int, width: int) -> np.ndarray:
    """bool [height, width], True where a pixel's centre lies inside `LUNG_BOXES`."""
    y = (np.arange(height)[:, np.newaxis] + 0.5) / height
    x = (np.arange(width) + 0.5) / width
    mask = np.zeros((height, width), dtype=bool)
    for top, bottom, left, right in LUNG_BOXES:
        rows = (top < y) & (y < bottom)
        columns = (left < x) & (x < right)
        mask |= rows & columns
    return mask


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


def thumbnails(images: np.ndarray, squares: int = 16) -> np.ndarray:
    """Mean grey, 0 to 255, of squares x squares parts: float32 [n, squares**2].

    Images are [n, h, w, 3], with h and w divisible by squares.
    """
    n, height, width, channels = images.shape
    shape = (n, squares, height // squares, squares, width // squares, channels)
    means = images.reshape(shape).mean(axis=(2, 4, 5))
    return means.reshape(n, squares**2).astype("float32")


def shortcut_features(image_set: ImageSet, root: Path) -> dict[str, np.ndarray]:
    """What could be learnt without a lung, or without anything else: name -> [n, d].

    The files of the image set lie below root.
    """
    headers = file_headers([root / file for file in image_set.files])
    grey = thumbnails(image_set.images)
    lungs = lung_mask(16, 16).ravel()
    border = border_mask(16, width=2).ravel()
    return {
        "channel count": headers[:, [3]],
        "file header": headers,
        "thumbnail": grey,
        "border": grey[:, border],
        "lungs blacked out": grey[:, ~lungs],
        "only lungs visible": grey[:, lungs],
    }


def shortcut_estimator(name: str) -> Pipeline:
    """A classifier for the `shortcut_features` of that name, not yet fitted.

    Nearest neighbours for the file header, because headers form clusters, one for each
    hospital or journal.
    """
    classifier = LogisticRegression(solver="newton-cholesky")
    if name == "file header":
        classifier = KNeighborsClassifier(n_neighbors=5)
    return make_pipeline(StandardScaler(), classifier)


def repeated_accuracy(
    estimator: BaseEstimator,
    features: np.ndarray,
    labels: ArrayLike,
    patients: ArrayLike,
    draws: int = 20,
    seed: int = 542,
) -> np.ndarray:
    """Held-out accuracy over draws of five folds by patient: float64 [draws]."""
    p = _repeated(estimator, features, labels, patients, draws, seed)
    right = p.argmax(axis=2) == labels
    return right.mean(axis=1)


def repeated_auc(
    estimator: BaseEstimator,
    features: np.ndarray,
    labels: ArrayLike,
    patients: ArrayLike,
    draws: int = 20,
    seed: int = 542,
) -> np.ndarray:
    """Held-out area under the ROC curve of labels 0 and 1: float64 [draws]."""
    p = _repeated(estimator, features, labels, patients, draws, seed)
    scores = [roc_auc_score(labels, p_1) for p_1 in p[:, :, 1]]
    return np.array(scores)


def _repeated(estimator, features, labels, patients, draws, seed):
    """Held-out probabilities, float64 [draws, n, classes], of seed, seed + 1, ..."""

    def predict(draw):
        folds = grouped_folds(labels, patients, seed=seed + draw)
        return held_out_probabilities(estimator, features, labels, folds)

    probabilities = Parallel()(delayed(predict)(draw) for draw in range(draws))
    return np.array(probabilities)
