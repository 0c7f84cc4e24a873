"""What stands on both sides of a split: patients, and images that are the same or nearly so."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

from .images import git_blob_sha1, read_xrays

HASH_SIZE = 16  # 256 bits: with the usual 64, copies (up to 10) and other radiographs (from 6 on) overlap
BITS = HASH_SIZE**2
READ_SIZE = 4 * HASH_SIZE  # the side to which phash reduces an image
# Of the 46,360 pairs of Task 2's 305 images one differs in 12 bits: two files of one covid patient, by eye
# the same radiograph. The others differ in 52 or more; by eye the nearest 23 show different radiographs.
# Copies made of 60 of the images differ in at most 10 bits where they are compressed or made smaller, in at
# most 30 where brightness, gamma or (by 1 % a side) the frame is changed. 32 is midway between 12 and 52.
MAX_DISTANCE = 32


class Duplicate(NamedTuple):
    """Two files that show the same, or nearly so.

    first, second : positions in the list of files, first < second; distance : bits in which the perceptual
    hashes differ; exact : whether the bytes of the files are equal.
    """

    first: int
    second: int
    distance: int
    exact: bool


def find_duplicates(paths: Sequence[str | os.PathLike], max_distance: int = MAX_DISTANCE) -> list[Duplicate]:
    """All pairs of files that are equal, or whose perceptual hashes are.

    The hash is `imagehash.phash`: which of the image's low frequencies are above their median. It survives
    compression, another size, brightness and gamma. By the default distance it finds 42 % of copies cropped
    by 2 % a side and 88 % of those turned by 1°, and hardly any that are cropped or turned further, mirrored,
    inverted or largely annotated. Other radiographs of the same patient differ nearly as much as those of
    different patients: they are not found.

    Parameters
    ----------
    paths : n files of any format that Pillow reads
    max_distance : bits of 256 in which the hashes of a pair may differ

    Returns
    -------
    list of Duplicate, equal files first, then by distance and position

    Raises
    ------
    ImageError
        A file is missing or cannot be decoded.
    ValueError
        `max_distance` is outside 0..256.
    """
    if not 0 <= max_distance <= BITS:
        raise ValueError(f"max_distance must be in 0..{BITS}, not {max_distance}")
    images = read_xrays(paths, READ_SIZE, progress=False)
    hashes = [imagehash.phash(Image.fromarray(image), HASH_SIZE).hash.ravel() for image in images]
    # Products of signs sum to the bits that agree less those that differ; float32 holds the sums exactly.
    signs = np.where(np.array(hashes, bool).reshape(-1, BITS), 1, -1).astype(np.float32)
    distances = ((BITS - signs @ signs.T) / 2).astype(int)
    digests = np.array([git_blob_sha1(path) for path in paths])
    first, second = np.nonzero(np.triu(distances <= max_distance, 1))
    pairs = zip(
        first.tolist(),
        second.tolist(),
        distances[first, second].tolist(),
        (digests[first] == digests[second]).tolist(),  # equal files have equal hashes: none is missed
        strict=True,
    )
    return sorted(
        (Duplicate(*pair) for pair in pairs),
        key=lambda pair: (not pair.exact, pair.distance, pair.first, pair.second),
    )


def describe_duplicates(duplicates: Sequence[Duplicate], files: Sequence[str]) -> list[str]:
    """One text a pair: both files, and in what they agree."""
    return [
        f"{files[pair.first]}\n{files[pair.second]}\n    "
        + ("equal files" if pair.exact else f"{pair.distance} of {BITS} bits of their hashes differ")
        for pair in duplicates
    ]


def shared_patients(one: Iterable[str], other: Iterable[str]) -> list[str]:
    """Patients that stand in both arrays, sorted: none, if a split leaks no patient that is known."""
    return sorted(set(map(str, one)) & set(map(str, other)))
