"""What can be told of an image without its lungs, from header, tiny pixels or border; and of the lungs alone.

Nothing here knows of Keras.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .images import ImageError

SQUARES = 16  # a side of the tiny images
BORDER = 2  # squares at each side that count as border
# (top, bottom, left, right) of the left and the right lung of the picture, as fractions of height and width.
# An assumption, the same for every image: laid over 70 training images of all classes they cover most of the
# lung fields in most. They miss the lower outer corners of wide chests, and hold parts of the heart, the
# shoulders and the upper abdomen besides. They are whole squares, and do not overlap the border.
LUNG_BOXES = ((2 / 16, 13 / 16, 2 / 16, 7 / 16), (2 / 16, 13 / 16, 9 / 16, 14 / 16))


def lung_mask(height: int, width: int) -> np.ndarray:
    """bool [height, width], True where a pixel's centre lies inside one of `LUNG_BOXES`."""
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width
    boxes = [(top < y) & (y < bottom) & (left < x) & (x < right) for top, bottom, left, right in LUNG_BOXES]
    return np.logical_or.reduce(boxes)


def black_out(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of uint8 [n, h, w, 3] that is black where `mask`, bool [h, w], is True."""
    return np.where(mask[..., None], np.uint8(0), images)


def _border_mask() -> np.ndarray:
    """bool [16, 16], True in the outermost squares."""
    border = np.ones((SQUARES, SQUARES), bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    return border


def file_headers(paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """What a file tells before a pixel is decoded.

    Returns
    -------
    float64 [n, 6]: width, height, width / height, channels, bytes, bits of the file per pixel

    Raises
    ------
    ImageError
        A file is missing, or is no image that Pillow knows.
    """
    rows = []
    for path in paths:
        try:
            with Image.open(path) as image:  # reads the header only
                width, height, channels = *image.size, len(image.getbands())
            size = os.path.getsize(path)
        except Exception as error:  # on broken bytes Pillow's plugins raise nearly anything
            cause = getattr(error, "strerror", None) or error
            raise ImageError(
                f"{os.fspath(path)} has no header that can be read: {cause}. Remedy: restore the file, or "
                "take it out of its folder."
            ) from error
        rows.append((width, height, width / height, channels, size, 8 * size / (width * height)))
    return np.array(rows, np.float64).reshape(-1, 6)


def tiny(images: np.ndarray, size: int = SQUARES) -> np.ndarray:
    """Mean grey over size × size squares.

    Parameters
    ----------
    images : uint8 [n, h, w, 3], h and w divisible by `size`

    Returns
    -------
    float32 [n, size * size], 0 to 255, row by row

    Raises
    ------
    ValueError
        For any other shape.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] % size or images.shape[2] % size:
        raise ValueError(f"images must be [n, h, w, 3], h and w divisible by {size}, not {images.shape}")
    n, height, width, _ = images.shape
    squares = images.reshape(n, size, height // size, size, width // size, 3)
    return squares.mean(axis=(2, 4, 5)).reshape(n, size * size).astype(np.float32)


def baselines(
    images: np.ndarray, paths: Sequence[str | os.PathLike]
) -> dict[str, tuple[np.ndarray, BaseEstimator]]:
    """Simple features, most of which see no lung, each with a classifier that is not fitted yet.

    What these reach, a network may have reached by the same means. Squares that are blacked out are left out
    of the features.

    Parameters
    ----------
    images : uint8 [n, h, w, 3], h and w divisible by 16
    paths : the n files of these images

    Returns
    -------
    dict of (features [n, d], estimator), by the name of what is seen

    Raises
    ------
    ImageError, ValueError
        As `file_headers` and `tiny` do; ValueError, too, if there are not as many images as paths.
    """
    if len(images) != len(paths):
        raise ValueError(f"there must be a path for each image, not {len(paths)} for {len(images)}")
    squares, lungs = tiny(images), lung_mask(SQUARES, SQUARES).ravel()
    seen = {
        "16 × 16 pixels": np.ones_like(lungs),
        "border alone": _border_mask().ravel(),
        "lungs blacked out": ~lungs,
        "lungs alone": lungs,
    }
    # Nearest neighbours, since headers come in clusters: one for each hospital or journal.
    results = {"file header": (file_headers(paths), make_pipeline(StandardScaler(), KNeighborsClassifier(5)))}
    for name, mask in seen.items():
        # With more features than images, Newton's method converges within the default iterations.
        classifier = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
        results[name] = (squares[:, mask], classifier)
    return results
