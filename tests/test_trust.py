"""Planted copies and shortcuts are found where they lie and nowhere else; an image of one's own is judged."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import imagehash
import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from utils import trust
from utils.data import ImageSet
from utils.files import ImageError, git_blob_sha1, read_xray
from utils.phantoms import SIGNS, render_phantom
from utils.trust import find_duplicates


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    paths = [folder / f"{seed}.png" for seed in range(8)]
    for seed, path in enumerate(paths):
        Image.fromarray(render_phantom(SIGNS[seed % 4], np.random.default_rng(seed), 200)).save(path)
    return paths


COPIES = {
    "smaller.jpg": lambda image: image.resize((111, 96)),
    "brighter.png": lambda image: image.point(lambda grey: min(255, grey + 30)),
    "darker.png": lambda image: image.point(lambda grey: int(0.7 * grey)),
    "in three channels.png": lambda image: image.convert("RGB"),
    "cropped by 1 % a side.png": lambda image: image.crop((2, 2, 198, 198)),
}


@pytest.mark.parametrize("name", COPIES)
def test_changed_copies_are_near_duplicates(name, originals, tmp_path):
    for k, path in enumerate(originals[:3]):
        COPIES[name](Image.open(path)).save(copy := tmp_path / f"{k} {name}", quality=40)
        (pair,) = find_duplicates([copy, *originals])
        assert (pair.first, pair.second, pair.exact) == (0, k + 1, False)


def test_exact_pairs_stand_first_then_the_nearest(originals, tmp_path):
    """Equal pixels in other bytes stand at the front of the list, and must not come before equal files."""
    Image.open(originals[0]).save(near := tmp_path / "near.png", compress_level=0)
    copies = [shutil.copy(originals[k], tmp_path / f"{k}.png") for k in (1, 0)]
    assert git_blob_sha1(near) != git_blob_sha1(originals[0])
    pairs = find_duplicates([near, *originals[:2], *copies])
    assert [(pair.first, pair.second) for pair in pairs] == [(1, 4), (2, 3), (0, 1), (0, 4)]
    assert [pair.exact for pair in pairs] == [True, True, False, False]


def test_distances_are_counted_bits(originals):
    """Against ImageHash's own difference of two hashes, for all pairs."""
    hashes = [imagehash.phash(Image.fromarray(read_xray(path, 64)), hash_size=16) for path in originals]
    pairs = find_duplicates(originals, max_distance=trust.BITS)
    assert len(pairs) == 8 * 7 / 2
    assert all(pair.distance == hashes[pair.first] - hashes[pair.second] for pair in pairs)
    assert find_duplicates(originals, pairs[0].distance)[0] == pairs[0]
    for files, bits in ((originals, pairs[0].distance - 1), (originals, 32), (originals[:1], 256), ([], 256)):
        assert find_duplicates(files, bits) == []


def test_equal_files_under_other_names_are_a_leak_across_the_split_alone(originals, tmp_path):
    """Two training files, then two test files: one copy crosses the split, and the other does not."""
    crossing, within = (shutil.copy(originals[k], tmp_path / f"scan{k} (1).png") for k in (0, 4))
    pairs = find_duplicates([originals[0], originals[1], originals[4], crossing, within])
    table = trust.duplicate_table([*pairs, trust.Duplicate(1, 2, 7, False)], list("abcde"), n_train=2)
    rows, same = [" ".join(row) for row in table.to_numpy()], "none, equal files"
    assert rows == [f"a d {same} yes", f"c e {same} no", "b c 7 of 256 bits yes"]
    assert list(trust.duplicate_table([], [], 0)) == list(table)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [find_duplicates, trust.file_headers])
def test_a_broken_file_is_named(read, content, originals, tmp_path):
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png .*Remedy"):
        read([*originals[:1], tmp_path / "broken.png"])


LABELS = np.arange(80) % 2
NOISE = np.random.default_rng(0).integers(0, 200, (80, 32, 32, 3), dtype=np.uint8)  # without any class
PROBES = ["VGG16, everything", "VGG16, lungs blacked out", "VGG16, lungs alone"]
BORDER = {THUMBNAIL := "thumbnail, 16 × 16", "border alone", "lungs blacked out", *PROBES[:2]}
LUNGS = {THUMBNAIL, "lungs alone", PROBES[0], PROBES[2]}


def image_set(images, paths):
    files = np.array([path.name for path in paths])
    return ImageSet(images, LABELS[: len(files)], ("covid", "normal"), files, np.arange(len(files)) // 2)


def assert_only(images, paths, told):
    """Accuracies of 5 folds. At chance, 0.5, a mean of 80 images has a standard deviation of 0.056."""
    base = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.AveragePooling2D(16)])
    train, test = image_set(images, paths), image_set(images[:9], paths[:9])
    pooled = [trust.pool(base.predict_on_batch(part.images)) for part in (train, test)]
    found = trust.shortcuts(train, test, paths[0].parent)
    found |= trust.probes(base, train, test, pooled, "VGG16")
    assert list(found)[:3] == ["file header", THUMBNAIL, "border alone"] and list(found)[5:] == PROBES
    for name, (features, of_test, model) in found.items():
        accuracy = cross_val_score(model, features, LABELS, cv=5).mean()
        assert accuracy > 0.95 if name in told else 0.3 < accuracy < 0.7, (name, accuracy)
        np.testing.assert_allclose(of_test, features[:9], rtol=1e-5)


@pytest.mark.parametrize(("rows", "told"), [((0, 0), {}), ((0, 4), BORDER), ((12, 20), LUNGS)])
def test_brightness_by_class_is_seen_where_it_lies(rows, told, tmp_path):
    """Nothing, rows of the border, or of the lungs' middle, are brighter in one of the classes."""
    Image.new("L", (32, 32)).save(tmp_path / "x.png")
    images, where = NOISE.copy(), trust.lung_mask(32, 32) | (rows[0] == 0)
    rows = slice(*rows)
    images[:, rows] += (50 * LABELS[:, None, None, None] * where[rows, :, None]).astype(np.uint8)
    assert_only(images, [tmp_path / "x.png"] * len(LABELS), told)


def test_file_size_by_class_is_seen_in_the_header_alone(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(len(LABELS))]
    for path, label in zip(paths, LABELS, strict=True):
        Image.new("L", (32, 32)).save(path, compress_level=9 * int(1 - label))  # equal pixels
    assert_only(NOISE, paths, {"file header"})


def test_shortcut_table_ranks_what_is_seen_beside_a_network_and_on_the_test_images():
    """Of two things seen one is the label, and in the test images its opposite; the other is nothing."""
    train = image_set(NOISE[:40], [Path(f"{k}.png") for k in range(40)])
    test, label, halves = train.subset(slice(10)), train.labels[:, None], np.split(np.arange(40), 2)
    seen = {"nothing": (0 * label, 0 * label[:10]), "label": (label, 1 - label[:10])}
    seen = {name: (*features, KNeighborsClassifier(1)) for name, features in seen.items()}
    table = trust.shortcut_table(seen, np.arange(40) < 20, train, test, [halves, halves[::-1]])
    assert list(table.index) == ["label", "nothing"] and table["right of 10 test images"].tolist() == [0, 5]
    assert [score.value for score in table["held-out accuracy"]] == [1, 0.5]
    assert [gap[:6] for gap in table["less the network's"]] == ["+0.500", "+0.000"]


def test_lung_mask_by_hand():
    squares = np.zeros((16, 16), bool)
    squares[2:13, 2:7] = squares[2:13, 9:14] = True
    for height, width in ((1, 1), (14, 14), (3, 5)):
        expected = squares.repeat(height, 0).repeat(width, 1)
        np.testing.assert_array_equal(trust.lung_mask(16 * height, 16 * width), expected)


def test_file_headers_by_hand_and_without_decoding(tmp_path):
    """The last file is cut off after its header: its pixels cannot be read."""
    Image.new("L", (40, 20)).save(grey := tmp_path / "grey.jpg")
    Image.new("RGBA", (8, 24)).save(colour := tmp_path / "colour.png")
    Image.effect_noise((300, 200), 80).save(cut := tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:200])
    sizes = np.array([path.stat().st_size for path in (grey, colour, cut)])
    expected = np.array([(40, 20, 2, 1), (8, 24, 1 / 3, 4), (300, 200, 1.5, 1)])
    bits = 8 * sizes / expected[:, 0] / expected[:, 1]
    found = trust.file_headers([grey, colour, cut])
    np.testing.assert_allclose(found, np.column_stack([expected, sizes, bits]))


def test_tiny_and_pool_by_hand():
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[0, 0, 0] = (12, 24, 36)  # one of the six pixels of the first square
    image[0, 2:, 3:] = 255
    assert trust.tiny(image, size=2).tolist() == [[4, 0, 0, 255]]
    assert trust.pool(np.array([[[[1], [4]]]])).tolist() == [[2.5, 4]]


def directions(*degrees):
    """Unit vectors in the plane: the cosine distance of two is 1 - cos of the angle between them."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_familiarity_by_hand():
    """Images at 60 and 61 degrees are one patient's: neither counts for the other, and length for nothing."""
    train, patients = directions(0, 10, 30, 60, 61) * [[5], [0.1], [1], [2], [1]], list("abcdd")
    found = trust.familiarity(train, patients, directions(12)[0])
    assert found.neighbours.tolist() == [1, 0, 2] and found.accepted
    # The image at 61 degrees lies farthest off: its three nearest of others are 31, 51 and 61 away.
    gaps = 1 - np.cos(np.radians([[2, 12, 18], [31, 51, 61]]))
    np.testing.assert_allclose(found.distances, gaps[0], atol=1e-12)
    np.testing.assert_allclose([found.distance, found.limit], gaps.mean(axis=1), atol=1e-12)
    assert not trust.familiarity(train, patients, directions(120)).accepted
    assert not trust.familiarity(train, patients, np.zeros(2)).accepted  # an image without any feature


def test_limit_refuses_one_in_a_hundred_and_not_more():
    features = np.random.default_rng(1).uniform(size=(200, 8))
    patients = np.arange(200) // 2  # pairs
    limit, others = trust.familiarity(features, patients, features[0]).limit, patients[:, None] != patients
    each = [trust.familiarity(features[o], patients[o], x) for o, x in zip(others, features, strict=True)]
    assert sum(one.distance > limit + 1e-12 for one in each) == 2


@pytest.mark.parametrize("patients", [list("aabb"), list("abc"), []])
def test_patients_must_fit_the_images_and_be_enough(patients):
    with pytest.raises(ValueError, match="a patient, and 3 images of other patients"):
        trust.familiarity(directions(0, 1, 30, 50), patients, directions(5)[0])


@pytest.mark.parametrize("text", [" ~/mine ü.png ", "'~/mine ü.png'", '"~/mine ü.png"', "Upload"])
def test_the_readers_own_image_is_found_and_an_example_for_no_text(text, tmp_path, monkeypatch):
    assert {trust.find_image(nothing, "x.png") for nothing in (None, "  ")} == {Path("x.png")}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 9)).save("mine ü.png")
    stand_in = SimpleNamespace(files=SimpleNamespace(upload=lambda: {"mine ü.png": b""}))
    monkeypatch.setitem(sys.modules, "google.colab", stand_in)  # which uploads to the working directory
    found = trust.find_image(text, "example.png")
    assert found.read_bytes() == (tmp_path / "mine ü.png").read_bytes()


NO_IMAGES = ["absent.png", ".", "a.txt", "upload", "~nobody/x", "a\0b", "~\0", "\udce9", "x" * 5000, "?*|<>"]


@pytest.mark.parametrize("text", NO_IMAGES)
def test_any_other_text_is_an_error_that_shows_its_remedy_alone(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("no image")
    with pytest.raises(trust.OwnImageError, match="Set IMAGE to the path of a picture") as error:
        trust.find_image(text, "example.png")
    assert error.value._render_traceback_() == [str(error.value)] and str(error.value).encode()
