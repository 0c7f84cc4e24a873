"""An image of the reader's: the training images nearest to it, and a limit beyond which it is refused.

Nothing here knows of Keras: features are plain arrays, one row an image, from whatever network.

Distances are cosine distances of pooled features. To scale each feature by its spread first looks better, but
only while the image in question has a part in that spread: a feature that one patient alone shows has none
without that patient, and then dwarfs all others.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 3
QUANTILE = 0.99  # the share of training images that the limit lets in


class OwnImageError(ValueError):
    """The reader's image is not to be had; the message names the remedy."""


def nearest(
    train_features: np.ndarray, features: np.ndarray, k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """The k training images nearest to each image.

    Parameters
    ----------
    train_features : float [n, d]; features : float [m, d], from the same network
    k : at most n

    Returns
    -------
    distances : float [m, k], cosine distances (0 to 2), the smallest first
    positions : int [m, k], the training images that they belong to

    Raises
    ------
    ValueError
        k is larger than n, or the features differ in length.
    """
    return NearestNeighbors(n_neighbors=k, metric="cosine").fit(train_features).kneighbors(features)


def leave_patient_out_distances(
    features: np.ndarray, patients: Sequence[str], k: int = NEIGHBOURS
) -> np.ndarray:
    """How far each training image lies from those of all other patients, as a new patient's image would.

    Parameters
    ----------
    features : float [n, d]
    patients : str [n]

    Returns
    -------
    float [n], mean cosine distance of the k nearest images of other patients

    Raises
    ------
    ValueError
        There are not as many patients as images, or not k images of other patients.
    """
    patients = np.asarray(patients)
    if patients.shape != (len(features),):
        raise ValueError(f"there must be a patient for each image, not {len(patients)} for {len(features)}")
    same = patients[:, None] == patients
    others = int((~same).sum(axis=1).min())
    if not 1 <= k <= others:
        raise ValueError(f"k must lie between 1 and {others}, the images of other patients, not be {k}")
    distances = pairwise_distances(features, metric="cosine")
    distances[same] = np.inf
    return np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1)


def refusal_limit(distances: np.ndarray, quantile: float = QUANTILE) -> float:
    """The smallest of these distances that at least a share `quantile` of them does not exceed.

    Of `leave_patient_out_distances`: an image whose mean distance to its k nearest training images is larger
    is refused, and so would be at most 1 - `quantile` of the training images, were their patients new. How
    many images of other kinds it refuses, this does not say.
    """
    return float(np.quantile(distances, quantile, method="inverted_cdf"))


def find_image(wish: str, example: str | os.PathLike) -> tuple[Path, bool]:
    """The path of the image that the reader asks for, and whether it is the reader's own.

    Parameters
    ----------
    wish : a path; "upload", on Colab, to be asked for a file; or empty, for the example
    example : path of the image that serves where none is asked for

    Raises
    ------
    OwnImageError
        There is no such file; an upload is asked for elsewhere than on Colab, or ends without a file.
    """
    wish = wish.strip()
    if not wish:
        return Path(example), False
    if wish.lower() == "upload":
        if "google.colab" not in sys.modules:
            raise OwnImageError("Only Colab can upload. Remedy: set IMAGE to the path of your image.")
        from google.colab import files

        wish = next(iter(files.upload()), "")
        if not wish:
            raise OwnImageError("No file was uploaded. Remedy: run the cell again, or set IMAGE to a path.")
    path = Path(wish).expanduser()
    if not path.is_file():
        raise OwnImageError(f"IMAGE={wish} is no file. Remedy: set IMAGE to the path of your image.")
    return path, True
