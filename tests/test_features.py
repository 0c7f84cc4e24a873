"""Augmented views that a radiographer might have taken, and features in step with their images."""

import keras
import numpy as np
import pytest

from utils import features
from utils.features import apply, augment, frozen_features, view_features


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


# Augmented views


def test_the_seed_decides_the_views(images):
    first, again, other = augment(images, 1), augment(images, 1), augment(images, 50)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_views_have_the_shape_and_range_of_the_images(dtype, images):
    before = images.astype(dtype)
    views = augment(before, 1)
    assert views.shape == images.shape and views.dtype == np.uint8
    assert views.min() < 50 and views.max() > 200
    assert np.array_equal(before, images)
    assert all(not np.array_equal(view, image) for view, image in zip(views, images, strict=True))


def test_images_are_altered_each_in_its_own_way():
    """Also across the slices in which many images are worked through."""
    same = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)), 70, axis=0)
    views = augment(same, 1).reshape(70, -1)
    assert len(np.unique(views, axis=0)) == 70


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
    shift = np.abs(centre - 47.5).max()
    assert 2 < shift < 0.07 * 96  # up to 5 %, and the zoom moves nothing far
    assert np.abs(views.max((1, 2)).astype(int) - 200).max() < 25


# Features


def test_features_are_those_of_predict_and_in_order(base, images, capsys):
    result = frozen_features(base, images, batch_size=3, progress=False)
    assert result.shape == (7, 48) and result.dtype == np.float32
    np.testing.assert_allclose(result, base.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result[4], base.predict_on_batch(images[4:5])[0], rtol=1e-5, atol=1e-6)
    assert len(np.unique(result, axis=0)) == 7
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_batches_of_any_size_give_the_same(batch_size, base, images):
    expected = base.predict(images, verbose=0)
    result = frozen_features(base, images, batch_size, progress=False)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(base, images, batch_size), expected, rtol=1e-5, atol=1e-6)


def test_long_steps_say_beforehand_how_long_they_take(base, images, capsys):
    frozen_features(base, images, batch_size=3, label="my base", announce=5)
    assert "my base: 35 images through the base, about" in capsys.readouterr().out
    frozen_features(base, images, batch_size=3, label="my base", announce=0)
    assert "images through" not in capsys.readouterr().out


def test_views_start_with_the_images_and_differ_from_each_other(base, images):
    views = view_features(base, images, n_views=2, seed=9, batch_size=3, progress=False)
    plain = frozen_features(base, images, batch_size=3, progress=False)
    assert views.shape == (3, 7, 48) and views.dtype == np.float32
    assert np.array_equal(views[0], plain)
    # The features of the views that `augment` makes with the same seed, image by image.
    assert np.allclose(views[1], base.predict(augment(images, 9), verbose=0), atol=1e-5)
    assert not np.allclose(views[1], views[2]) and not np.allclose(views[0], views[1])


def test_views_follow_the_seed(base, images):
    first, again, other = (view_features(base, images, 1, seed, progress=False)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_without_views_there_are_the_images_alone(base, images):
    assert view_features(base, images, 0, seed=1, progress=False).shape == (1, 7, 48)


def test_views_are_made_one_set_at_a_time(base, images, monkeypatch):
    made = []
    monkeypatch.setattr(features, "augment", lambda x, seed: made.append((len(x), seed)) or x)
    view_features(base, images, 3, seed=5, progress=False)
    assert [n for n, _ in made] == [7, 7, 7]
    seeds = [seed for _, seed in made]
    # `augment` uses the four seeds from its own on; the sets must not share one.
    assert min(np.diff(seeds)) >= 4


# More images than memory holds


class Small:
    """A base on a device that holds at most `limit` images."""

    name = "base"

    def __init__(self, base, limit):
        self.base, self.limit, self.sizes = base, limit, []

    def predict_on_batch(self, images):
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return self.base.predict_on_batch(images)


def test_out_of_memory_halves_the_batch(base, images, capsys):
    small = Small(base, 3)
    result = frozen_features(small, images, batch_size=8, label="my base")
    np.testing.assert_allclose(result, base.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    assert small.sizes == [7, 4, 2, 2, 2, 1]
    assert "my base: out of memory, going on with batches of 2" in capsys.readouterr().out


def test_a_base_that_does_not_fit_at_all_is_named(base, images):
    with pytest.raises(MemoryError, match="base does not fit"):
        frozen_features(Small(base, 0), images, batch_size=8, progress=False)


def test_another_error_is_not_taken_for_a_lack_of_memory(images):
    class Broken(Small):
        def predict_on_batch(self, images):
            raise ValueError("wrong shape")

    with pytest.raises(ValueError, match="wrong shape"):
        frozen_features(Broken(None, 0), images, progress=False)


def test_batches_in_order_show_the_first_view():
    views, targets = np.arange(14).reshape(2, 7, 1), np.arange(7)
    batches = features.ViewBatches(views, targets, 3, None)
    for _ in range(2):
        assert [batches[k][0][:, 0].tolist() for k in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
        batches.on_epoch_end()


def test_filled_batches_have_the_mean_loss_of_their_images():
    """7 images in batches of 4, filled to multiples of 4: the last holds 3 and one again, without weight."""
    x = np.arange(7.0)
    batches = features.ViewBatches(x[None, :, None], x, 4, None, multiple_of=4)
    images, targets, weights = batches[1]
    assert targets.tolist() == [4, 5, 6, 4] and images[:, 0].tolist() == [4, 5, 6, 4]
    assert weights[3] == 0 and np.mean(weights * targets) == pytest.approx(5)
    assert batches[0][2].tolist() == [1, 1, 1, 1]
