"""Leaks that are planted among phantoms are found; phantoms that only look alike are not."""

import io
import shutil

import imagehash
import numpy as np
import pytest
from PIL import Image

from utils.images import ImageError, git_blob_sha1, read_xray
from utils.leakage import BITS, Duplicate, describe_duplicates, find_duplicates, shared_patients
from utils.phantoms import SIGNS, render_phantom


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Eight phantoms, each of its own seed."""
    folder = tmp_path_factory.mktemp("originals")
    paths = [folder / f"{seed}.png" for seed in range(8)]
    for seed, path in enumerate(paths):
        Image.fromarray(render_phantom(SIGNS[seed % 4], np.random.default_rng(seed), 200)).save(path)
    return paths


def recompressed(image):
    image.resize((111, 96)).save(stream := io.BytesIO(), "JPEG", quality=40)
    return Image.open(stream)


def one_percent_cropped(image):
    return image.crop((2, 2, 198, 198))


COPIES = {
    "recompressed and smaller": recompressed,
    "brighter": lambda image: image.point(lambda grey: min(255, grey + 30)),
    "darker": lambda image: image.point(lambda grey: int(0.7 * grey)),
    "in three channels": lambda image: image.convert("RGB"),
    "cropped by 1 % a side": one_percent_cropped,
}


def test_other_radiographs_are_no_duplicates(originals):
    assert find_duplicates(originals) == []


def test_equal_files_are_exact_duplicates(originals, tmp_path):
    copy = shutil.copy(originals[3], tmp_path / "another name.png")
    assert find_duplicates([*originals, copy]) == [Duplicate(3, 8, 0, True)]


@pytest.mark.parametrize("change", COPIES)
def test_changed_copies_are_near_duplicates(change, originals, tmp_path):
    for k, path in enumerate(originals[:3]):
        COPIES[change](Image.open(path)).save(copy := tmp_path / f"{k}.png")
        (pair,) = find_duplicates([copy, *originals])
        assert (pair.first, pair.second, pair.exact) == (0, k + 1, False)


@pytest.mark.parametrize("change", ["mirrored", "inverted", "cropped"])
def test_what_the_hash_cannot_see_is_not_claimed(change, originals, tmp_path):
    """The limits that the docstring names."""
    pixels = np.asarray(Image.open(originals[0]))
    changed = {"mirrored": pixels[:, ::-1], "inverted": 255 - pixels, "cropped": pixels[20:-20, 20:-20]}[
        change
    ]
    Image.fromarray(changed).save(copy := tmp_path / "copy.png")
    assert find_duplicates([originals[0], copy]) == []


def test_equal_pixels_in_other_bytes_are_not_exact(originals, tmp_path):
    Image.open(originals[0]).save(copy := tmp_path / "copy.png", compress_level=0)
    assert git_blob_sha1(copy) != git_blob_sha1(originals[0])
    assert find_duplicates([originals[0], copy]) == [Duplicate(0, 1, 0, False)]


def test_exact_pairs_stand_first_then_the_nearest(originals, tmp_path):
    """Equal pixels in other bytes stand at the front of the list, and must not come before equal files."""
    Image.open(originals[0]).save(near := tmp_path / "near.png", compress_level=0)
    copies = [shutil.copy(originals[k], tmp_path / f"{k}.png") for k in (1, 0)]
    pairs = find_duplicates([near, *originals[:2], *copies])
    assert [(pair.first, pair.second) for pair in pairs] == [(1, 4), (2, 3), (0, 1), (0, 4)]
    assert [pair.exact for pair in pairs] == [True, True, False, False]
    assert all(type(pair.distance) is int and type(pair.exact) is bool for pair in pairs)


def test_distances_are_counted_bits(originals):
    """Against ImageHash's own difference of two hashes, for all pairs."""
    hashes = [imagehash.phash(Image.fromarray(read_xray(path, 64)), hash_size=16) for path in originals]
    pairs = find_duplicates(originals, max_distance=BITS)
    assert len(pairs) == 8 * 7 / 2
    assert all(pair.distance == hashes[pair.first] - hashes[pair.second] for pair in pairs)
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)
    nearest = pairs[0]
    assert find_duplicates(originals, nearest.distance)[0] == nearest
    assert find_duplicates(originals, nearest.distance - 1) == []


def test_fewer_than_two_files_hold_no_pair(originals):
    assert find_duplicates([]) == [] and find_duplicates(originals[:1]) == []


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_a_broken_file_is_named(content, originals, tmp_path):
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png .* Remedy"):
        find_duplicates([*originals, tmp_path / "broken.png"])


@pytest.mark.parametrize("bits", [-1, BITS + 1])
def test_a_distance_outside_the_hash_is_refused(bits, originals):
    with pytest.raises(ValueError, match=f"0..256, not {bits}"):
        find_duplicates(originals, bits)


def test_a_patient_on_both_sides_is_found():
    train, test = np.array(["13", "person7", "13", "2"]), np.array(["person7", "13", "person70"])
    shared = shared_patients(train, test)
    assert shared == ["13", "person7"] and all(type(patient) is str for patient in shared)
    assert shared_patients(train, ["1", "person"]) == [] == shared_patients([], test)


def test_duplicates_are_told_with_their_files():
    pairs = [Duplicate(0, 2, 0, True), Duplicate(1, 2, 7, False)]
    assert describe_duplicates(pairs, ["a.png", "b.png", "c.png"]) == [
        "a.png\nc.png\n    equal files",
        "b.png\nc.png\n    7 of 256 bits of their hashes differ",
    ]
