"""Describe an architecture: its layers line by line, and what one image costs."""

import math

import keras


def layer_lines(model):
    """One line a layer: name, output shape without the batch, parameters."""
    return [
        f"{layer.name:20} {tuple(layer.output.shape[1:])!s:16} {layer.count_params():>10,}"
        for layer in model.layers
    ]


def multiply_adds(model):
    """Multiply-adds of one image through the convolutions and dense layers, nested models included.

    A convolution takes height x width x channels of its output times kernel height x kernel width x channels
    of its input; a depthwise one sees one input channel only; a dense layer takes inputs x outputs. Biases,
    normalisations and activations are left out, as usual.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            total += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel_size)
        elif isinstance(layer, keras.layers.Conv2D):
            total += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
        elif isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total
