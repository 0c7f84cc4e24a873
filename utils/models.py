"""The report's architectures: a pre-trained backbone, its preprocessing, and a head of dense layers.

Every model here takes RGB images of 0 to 255 (uint8 or float): the preprocessing that its backbone was
trained with is its first layer, so that nobody can forget it. That layer has no parameters.
"""

import math

import keras
import numpy as np

from .weights import load_backbone_weights

IMAGE_SHAPE = (224, 224, 3)
# The mode of `keras.applications.imagenet_utils.preprocess_input` that each backbone was trained with.
PREPROCESSING = {"VGG16": "caffe", "VGG19": "caffe", "MobileNet": "tf"}


@keras.saving.register_keras_serializable(package="xray")
class ImagenetPreprocessing(keras.layers.Layer):
    """Map RGB of 0 to 255 to what an ImageNet backbone expects.

    Mode "caffe" gives BGR minus the ImageNet mean, "tf" scales to -1..1, "torch" normalises each channel.
    """

    def __init__(self, mode, **kwargs):
        if mode not in ("caffe", "tf", "torch"):
            raise ValueError(f"mode must be 'caffe', 'tf' or 'torch', not {mode!r}")
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, images):
        images = keras.ops.cast(images, self.compute_dtype)
        return keras.applications.imagenet_utils.preprocess_input(
            images, data_format="channels_last", mode=self.mode
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


def build_vgg16_binary(backbone="VGG16", dropout=0.0, weight_folder=None, download=True, seed=0):
    """Build the model of Task 1 (the report's Figure 1): frozen VGG16 inlined, `dense_feature`, a sigmoid.

    Parameters
    ----------
    backbone : "VGG16" or "VGG19".
    dropout : float in [0, 1): rate after Flatten and before the output; 0 adds no layer.
    weight_folder, download : as in `utils.weights.load_backbone_weights`.
    seed : int, of every random initial weight and of the dropout.

    Returns
    -------
    model : keras.Model, [n, 224, 224, 3] of 0 to 255 -> [n, 1], the probability of label 1.
        21,137,729 parameters with VGG16, of which 6,423,041 are trainable.
    report : WeightReport
    """
    if backbone not in ("VGG16", "VGG19"):
        raise ValueError(f"backbone must be 'VGG16' or 'VGG19', not {backbone!r}")
    inputs = keras.Input(IMAGE_SHAPE, name="image")
    mode = PREPROCESSING[backbone]
    preprocessed = ImagenetPreprocessing(mode, name=f"{mode}_preprocessing")(inputs)
    application = getattr(keras.applications, backbone)
    base = application(include_top=False, weights=None, input_tensor=preprocessed)
    report = load_backbone_weights(base.layers, backbone, weight_folder, download, seed)
    if report.initialised:
        normalise_scale(base, base.get_layer(report.initialised[0]))
    base.trainable = False
    outputs = _binary_head(keras.layers.Flatten(name="flatten")(base.output), dropout, seed)
    return keras.Model(inputs, outputs, name=f"{backbone}_binary"), report


def build_binary_head(n_features, dropout=0.0, seed=0):
    """Build the head of `build_vgg16_binary` alone, for cached features: [n, n_features] -> [n, 1]."""
    inputs = keras.Input((n_features,), name="flatten_features")
    return keras.Model(inputs, _binary_head(inputs, dropout, seed), name="binary_head")


@keras.saving.register_keras_serializable(package="xray")
class Logits(keras.layers.Layer):
    """What a dense layer gives before its activation; the weights stay the dense layer's own."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return keras.ops.matmul(x, self.dense.kernel) + self.dense.bias


def logits_model(model):
    """A chain of layers without the activation of its last dense layer; training it trains `model`."""
    *layers, dense = model.layers[1:]
    return _chain(model.input_shape[1:], [*layers, Logits(dense, name="logits")], f"{model.name}_logits")


def normalise_scale(base, layer, seed=0):
    """Scale a convolution's kernel so that the base's output has a root mean square of about 1 on images.

    VGG was trained without normalisation: its inner activations have a root mean square of several hundred,
    and its own last blocks bring that down to about 1. Where they are He-initialised instead, which keeps the
    scale, the head would start far in the saturated ends of its sigmoid. One factor mends that, because all
    layers after it are homogeneous (no bias). Layer-sequential unit-variance initialisation (Mishkin and
    Matas, ICLR 2016), reduced to its last step; measured on smooth noise, so that no data decide it.
    """
    blocks = np.random.default_rng(seed).uniform(0, 255, (4, 14, 14, 1))
    noise = np.kron(blocks, np.ones((1, 16, 16, 3)))
    features = base.predict_on_batch(noise)
    layer.kernel.assign(layer.kernel / float(np.sqrt(np.mean(np.square(features)))))


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


def _binary_head(x, dropout, seed):
    x = _dropout(x, dropout, seed, "dropout_flatten")
    x = _dense(x, 256, "relu", "dense_feature", seed + 1)
    x = _dropout(x, dropout, seed + 1, "dropout_feature")
    return _dense(x, 1, "sigmoid", "probability", seed + 2)


def _dense(x, units, activation, name, seed):
    kernel = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation=activation, kernel_initializer=kernel, name=name)(x)


def _dropout(x, rate, seed, name):
    return keras.layers.Dropout(rate, seed=seed, name=name)(x) if rate else x
