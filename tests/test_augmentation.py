"""Augmentation: its ranges, measured; its seeds; and that evaluation never meets it."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from utils.augmentation import augment, course_augmentation, mild_augmentation

SIZE = 64
COPIES = 300
IMAGES = np.random.default_rng(0).uniform(0, 255, (5, 16, 16, 3))
BOTH = pytest.mark.parametrize("build", [course_augmentation, mild_augmentation])


def transform(image, build, kind):
    """Copies of an image, transformed by the layers of one kind only."""
    layers = build(seed=1).layers
    chosen = [layer for layer in layers if kind in type(layer).__name__]
    copies = np.repeat(image[np.newaxis], COPIES, axis=0)
    return augment(keras.Sequential(chosen), copies)


def move_spot(build, kind, row, column):
    """Rows and columns to which the copies move a bright spot of eight pixels.

    All places are in pixels from the centre of the image.
    """
    image = np.zeros((SIZE, SIZE, 3))
    image[28 + row : 36 + row, 28 + column : 36 + column] = 1
    copies = transform(image, build, kind)[..., 0]
    copies /= copies.sum(axis=(1, 2), keepdims=True)
    places = np.arange(SIZE) - 31.5
    rows = copies.sum(axis=2) @ places
    columns = copies.sum(axis=1) @ places
    return rows, columns


def assert_fills(values, low, high):
    """The values lie in a range and come close to both of its ends."""
    tolerance = 0.05 * (high - low)
    assert values.min() == pytest.approx(low, abs=tolerance)
    assert values.max() == pytest.approx(high, abs=tolerance)


def assert_independent(rows, columns):
    correlation = np.corrcoef(rows, columns)
    assert abs(correlation[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("build", "degrees", "share"),
    [
        (course_augmentation, 50, 0.2),
        (mild_augmentation, 10, 0.05),
    ],
)
def test_rotation_and_shifts(build, degrees, share):
    rows, columns = move_spot(build, "Rotation", 0, 20)
    angles = np.arctan2(rows, columns)
    assert_fills(np.degrees(angles), -degrees, degrees)
    rows, columns = move_spot(build, "Translation", 0, 0)
    assert_fills(rows / SIZE, -share, share)
    assert_fills(columns / SIZE, -share, share)
    assert_independent(rows, columns)


def test_zoom_of_either_direction():
    rows, columns = move_spot(course_augmentation, "Zoom", 20, 20)
    # The layer draws how much of the image is shown.
    assert_fills(20 / rows, 0.9, 1.1)
    assert_fills(20 / columns, 0.9, 1.1)
    assert_independent(rows, columns)


def test_each_flip_is_drawn_for_itself():
    rows, columns = move_spot(course_augmentation, "Flip", 20, 10)
    assert set(rows.round()) == {-20, 20}
    assert set(columns.round()) == {-10, 10}
    assert_independent(rows, columns)


def test_the_mild_one_keeps_chests_upright():
    rows, columns = move_spot(mild_augmentation, "Flip", 20, 10)
    assert set(rows.round()) == {20}
    assert set(columns.round()) == {-10, 10}


def test_brightness_is_one_shift_of_a_whole_image():
    grey = np.full((8, 8, 3), 100)
    copies = transform(grey, course_augmentation, "Brightness")
    assert_fills(copies, 80, 120)
    assert np.all(copies == copies[:, :1, :1])


@pytest.mark.parametrize("kind", ["Rotation", "Translation", "Zoom"])
def test_what_comes_into_sight_is_black(kind):
    white = np.full((SIZE, SIZE, 3), 255)
    copies = transform(white, course_augmentation, kind)
    darkest = copies.min(axis=(1, 2, 3))
    assert np.mean(darkest == 0) > 0.4


@BOTH
def test_the_seed_decides_the_copies(build):
    copies = augment(build(seed=1), IMAGES)
    assert_array_equal(copies, augment(build(seed=1), IMAGES))
    assert not np.array_equal(copies, augment(build(seed=2), IMAGES))


@BOTH
def test_evaluation_sees_images_as_they_are(build):
    model = keras.Sequential([keras.Input((16, 16, 3)), build(seed=1)])
    assert_array_equal(model.predict(IMAGES, verbose=0), IMAGES.astype("float32"))


def test_copies_stay_in_step_with_their_images():
    unchanged = keras.Sequential([keras.layers.Rescaling(1.0)])
    copies = augment(unchanged, IMAGES, batch_size=2)
    assert_array_equal(copies, IMAGES.astype("float32"))
