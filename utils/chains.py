"""Cut and join models that are chains of layers. The parts share the layers: to train one is to train all."""

import math

import keras


def split_at(model, layer_name):
    """Cut a chain of layers in two models that share its layers.

    Training the second trains the whole: its weights are the model's own.

    Returns
    -------
    base : keras.Model from the input to the output of `layer_name`, that layer included.
    head : keras.Model from there to the model's output.

    Raises
    ------
    ValueError
        If the model has no such layer, or it is the last.
    """
    names = [layer.name for layer in model.layers]
    if layer_name not in names[:-1]:
        raise ValueError(f"{model.name} has no inner layer {layer_name!r}; it has {', '.join(names)}")
    cut = names.index(layer_name) + 1
    base = _chain(model.input_shape[1:], model.layers[1:cut], f"{model.name}_base")
    return base, _chain(base.output_shape[1:], model.layers[cut:], f"{model.name}_head")


def feature_model(model, layer_name):
    """The part of a chain of layers that ends in the named layer; ValueError if that is absent."""
    return split_at(model, layer_name)[0]


class Logits(keras.layers.Layer):
    """What a dense layer gives before its activation; the weights stay the dense layer's own.

    In float32 also where the layers before it compute with 16 bits: a loss needs the digits.
    """

    def __init__(self, dense, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.dense = dense

    def call(self, x):
        return keras.ops.matmul(x, self.dense.kernel) + self.dense.bias


def logits_model(model):
    """A chain of layers without the activation of its last dense layer; training it trains `model`."""
    *layers, dense = model.layers[1:]
    return _chain(model.input_shape[1:], [*layers, Logits(dense, name="logits")], f"{model.name}_logits")


def count_parameters(model):
    """Parameters of a model: {"total", "trainable", "non-trainable"}."""
    trainable = sum(math.prod(v.shape) for v in model.trainable_weights)
    frozen = sum(math.prod(v.shape) for v in model.non_trainable_weights)
    return {"total": trainable + frozen, "trainable": trainable, "non-trainable": frozen}


def _chain(shape, layers, name):
    """A model that applies layers one after the other. Layers may serve in several such models at once."""
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)
