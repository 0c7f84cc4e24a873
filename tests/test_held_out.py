"""Held-out images are scored by a network that is not in training."""

import keras
import numpy as np

from utils.features import apply


def test_applied_network_neither_drops_units_nor_normalises_by_the_batch():
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).normal(3, 2, (6, 16)).astype("float32")
    layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((16,)), *layers])
    norm, dense = layers[1:]
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in (dense.kernel, dense.bias))
    expected = inputs / np.sqrt(1 + norm.epsilon) @ kernel + bias  # moving statistics start at 0 and 1
    np.testing.assert_allclose(apply(model, inputs, 4), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.moving_mean), np.zeros(16))
