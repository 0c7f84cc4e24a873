"""Augmented views that a radiographer might have taken, and features in step with their images."""

import keras
import numpy as np
import pytest

from utils.features import apply, augment, frozen_features, image_views


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype("uint8")


@pytest.fixture(scope="module")
def base():
    """A small frozen base, by whose features each image can be told."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(3, 3, strides=4, activation="relu")(inputs / 255.0)
    return keras.Model(inputs, keras.layers.Flatten()(x))


def test_the_seed_decides_the_views_and_each_image_has_its_own(images):
    before, first = images.copy(), augment(images, 1)
    assert first.shape == images.shape and first.dtype == np.uint8 and np.array_equal(before, images)
    assert np.array_equal(first, augment(images.astype("float32"), 1))
    assert not np.array_equal(first, augment(images, 50))
    same = augment(np.repeat(images[:1], 70, axis=0), 1)  # also across the slices that are worked through
    assert len(np.unique(same.reshape(70, -1), axis=0)) == 70


def test_views_are_neither_flipped_nor_turned_over():
    """A bright upper left quarter stays the brightest, in every view of 64."""
    images = np.full((64, 32, 32, 3), 40, "uint8")
    images[:, :16, :16] = 220
    views = augment(images, 1)
    upper_left, upper_right = views[:, 4:12, 4:12].mean((1, 2, 3)), views[:, 4:12, 20:28].mean((1, 2, 3))
    lower_left = views[:, 20:28, 4:12].mean((1, 2, 3))
    assert (upper_left > upper_right + 100).all() and (upper_left > lower_left + 100).all()


def test_brightness_does_not_wrap_around():
    """White stays near white and black near black: no value leaves 0 to 255 on its way to a byte."""
    images = np.zeros((32, 16, 16, 3), "uint8")
    images[:, :, 8:] = 255
    views = augment(images, 2)
    assert views[:, 4:12, 12:14].min() > 200 and views[:, 4:12, 2:4].max() < 55


def test_views_differ_by_little():
    """A disc of a third of the width keeps its place, size and brightness within what the limits allow."""
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 47.5, x - 47.5) < 16
    views = augment(np.repeat((200 * disc)[None, ..., None], 3, axis=3).repeat(40, axis=0), 3)[..., 0]
    bright = views > 100
    area = bright.sum((1, 2)) / disc.sum()
    assert 0.75 < area.min() < 0.95 and 1.05 < area.max() < 1.35  # zoom up to 10 % each way
    centre = np.array([(bright_y.mean(), bright_x.mean()) for bright_y, bright_x in map(np.nonzero, bright)])
    assert 2 < np.abs(centre - 47.5).max() < 0.07 * 96  # up to 5 %, and the zoom moves nothing far
    assert np.abs(views.max((1, 2)).astype(int) - 200).max() < 25


def test_image_views_start_with_the_images_and_differ_from_each_other(images):
    views = image_views(images, 2, seed=9)
    assert views.shape == (3, *images.shape) and np.array_equal(views[0], images)
    assert np.array_equal(views[1], augment(images, 9)) and not np.array_equal(views[1], views[2])
    assert image_views(images, 0, seed=1).shape == (1, *images.shape)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_features_are_those_of_predict_in_order_whatever_the_batch(batch_size, base, images, capsys):
    expected = base.predict(images, verbose=0)
    result = frozen_features(base, images, batch_size, progress=False)
    assert result.shape == (7, 48) and result.dtype == np.float32 and capsys.readouterr().out == ""
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(base, images, batch_size), expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(result, axis=0)) == 7


def test_features_of_nothing_are_an_empty_array(base, images):
    for function in (frozen_features, apply):
        nothing = function(base, images[:0])
        assert nothing.shape == (0, 48) and nothing.dtype == np.float32


def test_a_network_that_is_applied_neither_drops_units_nor_normalises_by_the_batch():
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).normal(3, 2, (6, 16)).astype("float32")
    layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((16,)), *layers])
    norm, dense = layers[1:]
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in (dense.kernel, dense.bias))
    expected = inputs / np.sqrt(1 + norm.epsilon) @ kernel + bias  # moving statistics start at 0 and 1
    np.testing.assert_allclose(apply(model, inputs, 4), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.moving_mean), np.zeros(16))


class Small:
    """A base on a device that holds at most `limit` images, or that raises something else."""

    name = "small"

    def __init__(self, base, limit, said="RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."):
        self.base, self.limit, self.said, self.output_shape = base, limit, said, base.output_shape

    def predict_on_batch(self, images):
        if len(images) > self.limit:
            raise RuntimeError(self.said)
        return self.base.predict_on_batch(images)


def test_out_of_memory_halves_the_batch_and_says_so(base, images, capsys):
    result = frozen_features(Small(base, 3), images, batch_size=8, label="my base")
    np.testing.assert_allclose(result, base.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    assert "my base: out of memory, going on with batches of 2" in capsys.readouterr().out
    with pytest.raises(MemoryError, match="small does not fit the device"):
        frozen_features(Small(base, 0), images, progress=False)
    with pytest.raises(RuntimeError, match="wrong shape"):
        frozen_features(Small(base, 0, "wrong shape"), images, progress=False)
