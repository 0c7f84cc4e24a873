"""Features in step with their images, whatever the batch and the memory."""

import keras
import numpy as np
import pytest

from utils.features import apply, frozen_features


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
