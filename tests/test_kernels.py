"""The fused kernels against the layers and optimisers of Keras that they replace."""

import keras
import numpy as np
import pytest
from keras import layers

from utils.kernels import FusedAdam, FusedBatchNormalization, with_fused_normalization

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(3, 2, (4, 5, 6, 7))
TARGETS = RNG.normal(size=IMAGES.shape)


def train(layer, optimizer):
    """Output, weights and moments after four steps of training a layer."""
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), layer])
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    model.compile(optimizer, "mse")
    for _ in range(4):
        model.train_on_batch(IMAGES, TARGETS)
    output = model.predict_on_batch(IMAGES)
    return [output, *layer.weights, *optimizer.variables]


def assert_close(values, expected):
    for a, b in zip(values, expected, strict=True):
        a = keras.ops.convert_to_numpy(a)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.1},
        {"amsgrad": True},
    ],
)
def test_fused_adam_moves_weights_and_moments_as_adam_does(options):
    fused = train(layers.Dense(7), FusedAdam(0.01, **options))
    reference = train(layers.Dense(7), keras.optimizers.Adam(0.01, **options))
    assert_close(fused, reference)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.7},
        {"trainable": False},
        {"scale": False},
        {"center": False},
        {"axis": 1},
    ],
)
def test_fused_normalization_trains_and_predicts_as_keras_does(options):
    fused = FusedBatchNormalization(**options)
    reference = layers.BatchNormalization(**options)
    results = train(fused, keras.optimizers.SGD(0.1))
    expected = train(reference, keras.optimizers.SGD(0.1))
    assert_close(results, expected)


def test_a_fused_copy_keeps_the_weights_and_shares_nothing():
    norm = layers.BatchNormalization(name="norm", epsilon=0.01, momentum=0.8)
    base = keras.Sequential([keras.Input(IMAGES.shape[1:]), norm])
    norm.set_weights(RNG.uniform(0.5, 2, (4, 7)))
    expected = base.predict_on_batch(IMAGES)
    copy = with_fused_normalization(base)
    fused = copy.get_layer("norm")
    assert isinstance(fused, FusedBatchNormalization)
    assert_close(copy.predict_on_batch(IMAGES), expected)
    assert fused.gamma is not norm.gamma
    assert fused.momentum == 0.8
