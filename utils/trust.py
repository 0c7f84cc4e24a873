"""What scores may rest on: copies, shortcuts around the lungs; how unfamiliar an image of one's own is.
Imports session, files, features, evaluation and validation of ours."""

import sys
from collections import namedtuple
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .evaluation import paired_difference, patient_accuracy
from .features import frozen_features
from .files import ImageError, git_blob_sha1, read_xray, read_xrays
from .session import user_path
from .validation import held_out_probabilities, linear_probe

HASH_SIDE, BITS = 16, 256  # with the usual 64 bits, copies (up to 10) and other radiographs (from 6) overlap
SQUARES, BORDER = 16, 2  # a thumbnail's side, and how many of its squares at each side count as border
# (top, bottom, left, right) of both lungs as fractions, an assumption, the same for every image: by eye they
# cover most of the lung fields in most of 70 images, miss corners of wide chests, and hold part of the heart.
LUNG_BOXES = ((2 / 16, 13 / 16, 2 / 16, 7 / 16), (2 / 16, 13 / 16, 9 / 16, 14 / 16))
NEIGHBOURS = 3
Duplicate = namedtuple("Duplicate", "first second distance exact")  # positions; bits; whether bytes are equal
Familiarity = namedtuple("Familiarity", "distance limit accepted neighbours distances")


def find_duplicates(paths, max_distance=32):
    """All pairs of files that are equal, or nearly so by `imagehash.phash`: list of Duplicate, equal first.
    Found are copies compressed, resized, brighter or darker, and 42 % of those cropped by 2 % a side; not
    those mirrored, inverted or cropped further. ImageError names a file that cannot be decoded."""
    # One pair of Task 2's 305 images differs in 12 bits, by eye the same radiograph; others in 52 or more,
    # copies that are compressed, resized, brighter, darker, or cropped by 1 % a side in at most 30.
    images = read_xrays(paths, 4 * HASH_SIDE, progress=False)  # the side to which phash reduces an image
    hashes = [imagehash.phash(Image.fromarray(image), HASH_SIDE).hash.ravel() for image in images]
    # Products of signs sum to the bits that agree less those that differ; float32 holds the sums exactly.
    signs = 2 * np.array(hashes, "float32").reshape(-1, BITS) - 1
    distances = ((BITS - signs @ signs.T) / 2).astype(int)
    digests = [git_blob_sha1(path) for path in paths]
    pairs = np.argwhere(np.triu(distances <= max_distance, 1)).tolist()  # equal files have equal hashes
    found = [Duplicate(i, j, int(distances[i, j]), digests[i] == digests[j]) for i, j in pairs]
    return sorted(found, key=lambda pair: (not pair.exact, pair.distance, pair.first, pair.second))


def duplicate_table(duplicates, files, n_train):
    """A row a pair, a leak if across the split; the first `n_train` of `files` are the training images."""
    rows = []
    for first, second, distance, exact in duplicates:
        differ = "none, equal files" if exact else f"{distance} of {BITS} bits"
        rows.append((files[first], files[second], differ, "yes" if first < n_train <= second else "no"))
    return pd.DataFrame(rows, columns=["file", "copy", "difference", "across the split"])


def lung_mask(height, width):
    """bool [height, width], True where a pixel's centre lies inside one of `LUNG_BOXES`."""
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width
    boxes = [(top < y) & (y < bottom) & (left < x) & (x < right) for top, bottom, left, right in LUNG_BOXES]
    return np.logical_or.reduce(boxes)


def file_headers(paths):
    """float64 [n, 6]: width, height, their ratio, channels, bytes, bits per pixel; no pixel is decoded."""
    rows = []
    for path in paths:
        try:
            with Image.open(path) as image:  # reads the header only
                width, height, channels = *image.size, len(image.getbands())
            size = Path(path).stat().st_size
        except Exception as error:  # on broken bytes Pillow's plugins raise nearly anything
            raise ImageError(f"{path} has no header: {error}. Remedy: restore or remove it.") from error
        rows.append((width, height, width / height, channels, size, 8 * size / (width * height)))
    return np.array(rows, "float64").reshape(-1, 6)


def tiny(images, size=SQUARES):
    """Mean grey, 0 to 255, of size × size squares of [n, h, w, 3], h and w divisible: float32 [n, size²]."""
    n, height, width, _ = images.shape
    squares = images.reshape(n, size, height // size, size, width // size, 3)
    return squares.mean(axis=(2, 4, 5)).reshape(n, size * size).astype("float32")


def shortcuts(train_set, test_set, root):
    """What is seen -> (features of the training images, of the test images, a classifier to be fitted)."""
    parts, lungs = (train_set, test_set), lung_mask(SQUARES, SQUARES)
    border = lungs | True
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    headers = [file_headers([Path(root) / file for file in part.files]) for part in parts]
    # Nearest neighbours, since headers come in clusters: one for each hospital or journal.
    found = {"file header": (*headers, make_pipeline(StandardScaler(), KNeighborsClassifier(5)))}
    names = (f"thumbnail, {SQUARES} × {SQUARES}", "border alone", "lungs blacked out", "lungs alone")
    for name, mask in zip(names, (lungs | True, border, ~lungs, lungs), strict=True):
        # With more features than images, Newton's method converges within the default iterations.
        estimator = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
        found[name] = (*(tiny(part.images)[:, mask.ravel()] for part in parts), estimator)
    return found


def pool(maps):
    """Mean and maximum over places of what a base gives, [n, h, w, d]: [n, 2 d]."""
    return np.hstack([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))])


def probes(base, train_set, test_set, pooled, name):
    """The same as `shortcuts`, for a linear probe on what a base sees with and without the lungs.
    pooled: (`pool` of its maps of the training images, of the test images)."""
    lungs, found = lung_mask(*train_set.images.shape[1:3]), {f"{name}, everything": (*pooled, linear_probe())}
    for seen, black in {"lungs blacked out": lungs, "lungs alone": ~lungs}.items():
        parts = (np.where(black[..., None], np.uint8(0), part.images) for part in (train_set, test_set))
        masked = (pool(frozen_features(base, images, progress=False)) for images in parts)
        found[f"{name}, {seen}"] = (*masked, linear_probe())
    return found


def shortcut_table(seen, right, train_set, test_set, folds):
    """A row each of `seen`: on folds, in pairs with a network (right, bool [n]), and on the test images."""
    rows, columns = {}, ["held-out accuracy", "less the network's", f"right of {len(test_set)} test images"]
    for name, (x, x_test, estimator) in seen.items():
        ok = held_out_probabilities(estimator, x, train_set, folds).argmax(1) == train_set.labels
        gap = paired_difference(ok, right, train_set.patients, 1 - 0.05 / len(seen))  # Bonferroni's
        found = clone(estimator).fit(x, train_set.labels).predict(x_test) == test_set.labels
        rows[name] = [patient_accuracy(ok, train_set.patients), f"{gap:+}", found.sum()]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).sort_values(columns[0], ascending=False)


class OwnImageError(ValueError):
    """The reader's image cannot be had; a notebook shows the message alone, which names the remedy."""

    def _render_traceback_(self):  # IPython's hook
        return [str(self)]


def find_image(requested, example):
    """The Path of the reader's X-ray, or, of no text, of an example; else an OwnImageError."""
    text = (requested or "").strip().strip("\"'")  # Windows copies a path with quotes
    if not text:
        return Path(example)
    if text.lower() == "upload" and (colab := sys.modules.get("google.colab")):
        text = next(iter(colab.files.upload()), text)
    try:
        read_xray(path := user_path(text))
    except (OSError, ValueError) as error:  # also of text that no path can be
        message = f"{error} Set IMAGE to the path of a picture, or on Colab to 'upload'."
        raise OwnImageError(message.encode("utf-8", "backslashreplace").decode()) from error
    return path


def familiarity(train_features, patients, features_of_one):
    """Compare features [d] of one image with [n, d] of the training images, of `patients` [n]: a Familiarity,
    the mean cosine distance to the 3 nearest first. The limit is the smallest that accepts 99 % of the
    training images, each compared with those of other patients; what else it refuses, this does not say.
    Features are not scaled by their spread: one that a single patient shows would then dwarf all others."""
    same = np.equal.outer(patients, patients)
    if len(same) != len(train_features) or (~same).sum(axis=1).min() < NEIGHBOURS:
        raise ValueError(f"each image needs a patient, and {NEIGHBOURS} images of other patients")
    among = pairwise_distances(train_features, metric="cosine")
    usual = np.sort(np.where(same, np.inf, among))[:, :NEIGHBOURS].mean(axis=1)
    limit = float(np.quantile(usual, 0.99, method="inverted_cdf"))
    distances = pairwise_distances(np.reshape(features_of_one, (1, -1)), train_features, metric="cosine")[0]
    nearest = np.argsort(distances, kind="stable")[:NEIGHBOURS]
    distance = float(distances[nearest].mean())
    return Familiarity(distance, limit, distance <= limit, nearest, distances[nearest])
