"""Multiply-adds against hand-computed layers and the published costs."""

import keras
import pytest

from utils.architecture import layer_lines, multiply_adds


def test_hand_computed_layers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)  # 8 * 8 * 4 * (3 * 3 * 3) = 6912
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)  # 4 * 4 * 4 * (3 * 3) = 576
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(x))  # 64 * 10 = 640
    nested = keras.Model(inputs, outputs)
    outer = keras.Input((8, 8, 3))
    assert multiply_adds(keras.Model(outer, nested(outer))) == 6912 + 576 + 640


@pytest.mark.parametrize(("name", "billions"), [("VGG16", 15.35), ("MobileNet", 0.568)])
def test_published_costs(name, billions):
    model = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(224, 224, 3))
    assert multiply_adds(model) / 1e9 == pytest.approx(billions, rel=2e-3)


def test_one_line_a_layer():
    inputs = keras.Input((4,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(inputs))
    assert [line.split() for line in layer_lines(model)] == [
        ["features", "(4,)", "0"],
        ["output", "(2,)", "10"],
    ]
