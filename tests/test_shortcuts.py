"""Planted copies and shortcuts show where they lie, and nowhere else."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from utils.datasets import ImageSet
from utils.folds import grouped_folds, held_out_probabilities
from utils.images import ImageError
from utils.shortcuts import (
    border_mask,
    file_headers,
    find_duplicates,
    lung_mask,
    mask_images,
    repeated_accuracy,
    repeated_auc,
    shortcut_estimator,
    shortcut_features,
    thumbnails,
)


@pytest.fixture
def originals(tmp_path):
    """Files of five images with random blotches."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(5):
        blotches = rng.integers(40, 200, size=(16, 16), dtype=np.uint8)
        image = Image.fromarray(blotches).resize((200, 200))
        path = tmp_path / f"original {number}.png"
        image.save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((111, 96)),
        lambda image: image.point(lambda grey: grey + 30),
        lambda image: image.point(lambda grey: 0.7 * grey),
        lambda image: image.crop((2, 2, 198, 198)),
    ],
    ids=["smaller", "brighter", "darker", "cropped"],
)
def test_changed_copies_are_duplicates(change, originals, tmp_path):
    copy = tmp_path / "copy.jpg"
    change(Image.open(originals[3])).save(copy, quality=40)
    table = find_duplicates([*originals, copy])
    assert len(table) == 1
    pair = table.loc[0]
    assert (pair["first"], pair["second"]) == (3, 5)
    assert not pair["identical"]


def test_identical_files_stand_before_equal_images(originals, tmp_path):
    other_bytes = tmp_path / "other bytes.png"
    Image.open(originals[0]).save(other_bytes, compress_level=0)
    copy = shutil.copy(originals[0], tmp_path / "copy.png")
    table = find_duplicates([other_bytes, *originals, copy])
    assert table.to_dict("list") == {
        "first": [1, 0, 0],
        "second": [6, 1, 6],
        "bits": [0, 0, 0],
        "identical": [True, False, False],
    }


def test_different_images_are_no_duplicates(originals):
    assert find_duplicates(originals).empty
    assert find_duplicates([]).empty


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_without_header_is_named(content, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged\.png .*Remedy"):
        file_headers([damaged])


def test_file_headers_by_hand(tmp_path):
    """The second file ends after its header, so its pixels cannot be read."""
    colour = tmp_path / "colour.png"
    Image.new("RGBA", (8, 24)).save(colour)
    n_bytes = colour.stat().st_size
    cut = tmp_path / "cut.png"
    Image.effect_noise((300, 200), 80).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    expected = [
        [8, 24, 1 / 3, 4, n_bytes, n_bytes / 24],
        [300, 200, 1.5, 1, 200, 1600 / 60000],
    ]
    np.testing.assert_allclose(file_headers([colour, cut]), expected)


def test_lung_mask_by_hand():
    expected = np.zeros((48, 80), dtype=bool)
    expected[6:39, 10:35] = True
    expected[6:39, 45:70] = True
    np.testing.assert_array_equal(lung_mask(48, 80), expected)


def test_masked_images_show_what_is_visible():
    images = np.full((2, 6, 6, 3), 9, dtype=np.uint8)
    masked = mask_images(images, border_mask(6, width=2), fill=5)
    expected = images.copy()
    expected[:, 2:4, 2:4] = 5
    np.testing.assert_array_equal(masked, expected)
    assert np.all(images == 9)


def test_thumbnails_by_hand():
    image = np.zeros((1, 4, 6, 3), dtype=np.uint8)
    image[0, 0, 0] = (12, 24, 36)  # one of the six pixels of its square
    image[0, 2:, 3:] = 255
    assert thumbnails(image, squares=2).tolist() == [[4, 0, 0, 255]]


LABELS = np.random.default_rng(1).permutation(80) % 2
NOISE = np.random.default_rng(0).integers(
    200,
    size=(80, 32, 32, 3),
    dtype=np.uint8,
)


def detected_by(images, paths):
    """Names of the shortcuts that classify the images; the others guess."""
    image_set = ImageSet(
        images=images,
        labels=LABELS,
        class_names=("covid", "normal"),
        table=pd.DataFrame({"path": [path.name for path in paths]}),
    )
    names = set()
    for name, x in shortcut_features(image_set, paths[0].parent).items():
        estimator = shortcut_estimator(name)
        accuracy = repeated_accuracy(estimator, x, LABELS, np.arange(80), draws=1)
        assert accuracy > 0.95 or 0.3 < accuracy < 0.7
        if accuracy > 0.95:
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (slice(0, 0), set()),
        (slice(0, 4), {"thumbnail", "border", "lungs blacked out"}),
        (slice(12, 20), {"thumbnail", "only lungs visible"}),
    ],
)
def test_brightness_is_detected_where_it_differs(rows, names, tmp_path):
    """The border's upper rows, or the lungs' middle rows, are brighter for a class."""
    path = tmp_path / "any.png"
    Image.new("L", (32, 32)).save(path)
    visible = lung_mask(32, 32)
    visible[:4] = True
    images = NOISE.copy()
    brighter = images[LABELS == 1, rows]
    images[LABELS == 1, rows] = brighter + 50 * visible[rows, :, np.newaxis]
    assert detected_by(images, [path] * 80) == names


@pytest.mark.parametrize(
    ("mode", "compress_level", "names"),
    [
        ("L", 0, {"file header"}),
        ("RGB", 9, {"file header", "channel count"}),
    ],
)
def test_format_is_detected_in_the_header(mode, compress_level, names, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(80)]
    for path, label in zip(paths, LABELS, strict=True):
        Image.new("L", (32, 32)).save(path)
        if label == 1:
            image = Image.new(mode, (32, 32))
            image.save(path, compress_level=compress_level)
    assert detected_by(NOISE, paths) == names


def test_scores_are_repeated_over_draws_of_the_folds():
    rng = np.random.default_rng(4)
    patients = np.arange(80) // 4
    labels = patients % 2
    features = rng.normal(size=(80, 3)) + labels[:, np.newaxis]
    estimator = shortcut_estimator("border")
    arguments = (estimator, features, labels, patients)
    accuracy = repeated_accuracy(*arguments, draws=3, seed=7)
    auc = repeated_auc(*arguments, draws=3, seed=7)
    for draw in range(3):
        folds = grouped_folds(labels, patients, n_splits=5, seed=7 + draw)
        p = held_out_probabilities(estimator, features, labels, folds)
        assert accuracy[draw] == np.mean(p.argmax(axis=1) == labels)
        assert auc[draw] == roc_auc_score(labels, p[:, 1])
    assert len(set(auc)) == 3


@pytest.mark.shared
def test_the_challenge_has_one_pair_of_duplicates(shared):
    """Two training images of COVID-19, by eye the same radiograph."""
    folder = shared / "data" / "all" / "train" / "covid"
    table = find_duplicates(sorted(folder.iterdir()))
    assert table["bits"].tolist() == [12]
