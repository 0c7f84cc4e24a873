"""The report's networks: backbones, heads and whole classifiers.

The notebooks build these networks in sight; the builders here serve the many fits on
folds, and a test compares the two. Images are RGB of 0 to 255, [n, 224, 224, 3].
"""

import math
from collections.abc import Sequence

import keras
from keras import layers

from .kernels import with_fused_normalization
from .pretrained import WeightSource, load_imagenet

IMAGE_SHAPE = (224, 224, 3)
IMAGENET_SCALING = {
    "VGG16": keras.applications.vgg16.preprocess_input,
    "MobileNet": keras.applications.mobilenet.preprocess_input,
}


def build_backbone(
    architecture: str, folder: str = "", scaling: str = "1/255"
) -> tuple[keras.Model, WeightSource]:
    """A network without its top, from images to its last feature maps.

    Parameters
    ----------
    architecture : str
        Its name in `keras.applications`.
    folder : str
        Where the weights are; see `pretrained.load_imagenet`.
    scaling : str
        "1/255", as in the course's template, or "imagenet", the preprocessing that
        the weights of VGG16 and MobileNet were trained with.
    """
    inputs = keras.Input(IMAGE_SHAPE, name="image")
    if scaling == "imagenet":
        scaled = IMAGENET_SCALING[architecture](inputs)
    elif scaling == "1/255":
        scaled = layers.Rescaling(1 / 255, name="scaling")(inputs)
    else:
        raise ValueError(f'scaling must be "1/255" or "imagenet": {scaling!r}')
    options = {}
    if architecture.startswith("MobileNetV3"):
        options["include_preprocessing"] = False
    build = getattr(keras.applications, architecture)
    base = build(include_top=False, weights=None, input_tensor=scaled, **options)
    source = load_imagenet(base, architecture, folder)
    return base, source


def build_head(
    n_features: int,
    n_outputs: int,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """The dense layers of the report, on the features of a frozen backbone.

    Parameters
    ----------
    n_features : int
        Length of an image's feature vector.
    n_outputs : int
        1 gives a sigmoid, the probability of label 1; more give a softmax.
    hidden : sequence of int
        Units of the ReLU layers.
    dropout : float
        Rate after the features and before the output; 0 adds no layer.
    seed : int
        Decides the random weights and the dropout.
    """
    inputs = keras.Input((n_features,), name="features")
    outputs = _dense_layers(inputs, n_outputs, hidden, dropout, seed)
    return keras.Model(inputs, outputs, name="head")


def build_classifier(
    backbone: keras.Model,
    n_outputs: int,
    seed: int = 0,
    momentum: float | None = None,
) -> keras.Model:
    """The report's MobileNet: a copy of a backbone, nested, and a head; all trainable.

    `seed` is as for `build_head`; `momentum` is that of the batch normalisation's
    moving statistics, by default the backbone's.
    """
    inputs = keras.Input(backbone.input_shape[1:])
    x = with_fused_normalization(backbone, momentum)(inputs)
    x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = _dense_layers(x, n_outputs, (512, 256), dropout=0, seed=seed)
    return keras.Model(inputs, outputs, name="classifier")


def _dense_layers(x, n_outputs: int, hidden: Sequence[int], dropout: float, seed: int):
    if dropout:
        x = layers.Dropout(dropout, seed=seed + 10)(x)
    for index, units in enumerate(hidden):
        initializer = keras.initializers.GlorotUniform(seed + index)
        x = layers.Dense(units, "relu", kernel_initializer=initializer)(x)
    if dropout:
        x = layers.Dropout(dropout, seed=seed + 11)(x)
    activation = "softmax"
    if n_outputs == 1:
        activation = "sigmoid"
    initializer = keras.initializers.GlorotUniform(seed + len(hidden))
    return layers.Dense(n_outputs, activation, kernel_initializer=initializer)(x)


def logits_model(model: keras.Model) -> keras.Model:
    """A chain of layers without its last activation; weights are shared or copied."""
    inputs = keras.Input(model.input_shape[1:])
    x = inputs
    *inner, last = model.layers
    for layer in inner:
        if not isinstance(layer, layers.InputLayer):
            x = layer(x)
    linear = layers.Dense(last.units, name="logits")
    outputs = linear(x)
    linear.set_weights(last.get_weights())
    return keras.Model(inputs, outputs)


def count_parameters(model: keras.Model) -> dict[str, int]:
    """Parameters of a network: "total", "trainable" and "non-trainable"."""
    total = model.count_params()
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return {
        "total": total,
        "trainable": trainable,
        "non-trainable": total - trainable,
    }
