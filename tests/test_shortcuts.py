"""Planted copies and shortcuts show where they lie, and nowhere else."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pytest import approx

from utils.datasets import ImageSet
from utils.folds import grouped_folds
from utils.shortcuts import (
    border_mask,
    file_headers,
    find_duplicates,
    lung_mask,
    mask_images,
    repeated_probabilities,
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


def test_equal_images_stand_before_similar_ones(originals, tmp_path):
    similar = tmp_path / "similar.jpg"
    Image.open(originals[0]).resize((50, 50)).save(similar, quality=20)
    equal = tmp_path / "equal.png"
    Image.open(originals[1]).save(equal, compress_level=0)
    table = find_duplicates([*originals, similar, equal])
    assert table["first"].tolist() == [1, 0]
    assert table["second"].tolist() == [6, 5]
    assert table["bits"][0] == 0 < table["bits"][1]


def test_different_images_are_no_duplicates(originals):
    assert find_duplicates(originals).empty
    assert find_duplicates([]).empty


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
    image = np.zeros((1, 32, 48, 3), dtype=np.uint8)
    image[0, 0, 0] = (12, 24, 36)  # one of the six pixels of its part
    image[0, 30:, 45:] = 255
    expected = np.zeros((1, 16, 16))
    expected[0, 0, 0] = 4
    expected[0, 15, 15] = 255
    np.testing.assert_array_equal(thumbnails(image), expected)


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
        p = repeated_probabilities(estimator, x, LABELS, np.arange(80), draws=1)
        accuracy = np.mean(p[0].argmax(axis=1) == LABELS)
        assert accuracy > 0.95 or 0.3 < accuracy < 0.7
        if accuracy > 0.95:
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (slice(0, 0), set()),
        (slice(0, 4), {"thumbnail", "thumbnail, border", "thumbnail, lungs black"}),
        (slice(12, 20), {"thumbnail", "thumbnail, only lungs"}),
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


def test_probabilities_are_repeated_over_draws_of_the_folds():
    """The last fold of each draw is predicted by what the others taught."""
    rng = np.random.default_rng(4)
    patients = np.arange(90) // 3
    labels = patients % 3
    features = rng.normal(size=(90, 3)) + labels[:, np.newaxis]
    estimator = shortcut_estimator("thumbnail, border")
    p = repeated_probabilities(estimator, features, labels, patients, draws=3, seed=7)
    assert p.shape == (3, 90, 3)
    for draw in range(3):
        last = grouped_folds(labels, patients, seed=7 + draw)[-1]
        fitted = estimator.fit(features[last.train], labels[last.train])
        expected = fitted.predict_proba(features[last.held_out])
        assert p[draw, last.held_out] == approx(expected)


@pytest.mark.shared
def test_the_challenge_has_one_pair_of_duplicates(shared):
    """Two training images of COVID-19, by eye the same radiograph."""
    folder = shared / "data" / "all" / "train" / "covid"
    table = find_duplicates(sorted(folder.iterdir()))
    assert table["bits"].tolist() == [12]
