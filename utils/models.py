"""The report's architectures: a pre-trained backbone, its preprocessing, and a head of dense layers.

Every model here takes RGB images of 0 to 255 (uint8 or float): the preprocessing that its backbone was
trained with is its first layer, so that nobody can forget it. That layer has no parameters.
"""

import keras
import numpy as np

from .weights import load_backbone_weights

IMAGE_SHAPE = (224, 224, 3)
# The mode of `keras.applications.imagenet_utils.preprocess_input` that each backbone was trained with.
# MobileNetV3 carries its own.
PREPROCESSING = {
    "VGG16": "caffe",
    "VGG19": "caffe",
    "MobileNet": "tf",
    "MobileNetV2": "tf",
    "MobileNetV3Small": None,
    "MobileNetV3Large": None,
}
BATCH_NORM_MOMENTUM = 0.9


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
        images = keras.ops.cast(images, "float32")  # 16 bits would round before the mean is taken away
        images = keras.applications.imagenet_utils.preprocess_input(
            images, data_format="channels_last", mode=self.mode
        )
        return keras.ops.cast(images, self.compute_dtype)

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


def build_multiclass(
    backbone,
    n_classes=4,
    dropout=0.0,
    momentum=BATCH_NORM_MOMENTUM,
    weight_folder=None,
    download=True,
    seed=0,
):
    """Build a model of Task 2: a nested backbone, a head with `feature_dense`, a softmax.

    VGG is frozen; its head is Flatten and 256 units (the report's `VGG16`: 21,138,500 parameters, 6,423,812
    of them trainable). A MobileNet is fine-tuned whole; its head is global average pooling, Flatten, 512 and
    256 units (the report's `MobileNet`: 3,886,020 and 3,864,132).

    Parameters
    ----------
    backbone : one of `PREPROCESSING`.
    n_classes : int; dropout : rate before `feature_dense` and before the output, 0 adds no layer.
    momentum : of the backbone's batch normalisations. Keras' 0.99 lets their moving statistics lag behind the
        weights for hundreds of steps, so that validation sits at chance while training accuracy is 1.
    weight_folder, download : as in `utils.weights.load_backbone_weights`.
    seed : int, of every random initial weight and of the dropout.

    Returns
    -------
    model : keras.Model, [n, 224, 224, 3] of 0 to 255 -> [n, n_classes] probabilities.
    report : WeightReport
    """
    if backbone not in PREPROCESSING:
        raise ValueError(f"backbone must be one of {', '.join(PREPROCESSING)}, not {backbone!r}")
    is_vgg, mode = backbone.startswith("VGG"), PREPROCESSING[backbone]
    base = getattr(keras.applications, backbone)(include_top=False, weights=None, input_shape=IMAGE_SHAPE)
    report = load_backbone_weights(base.layers, backbone, weight_folder, download, seed)
    inputs = x = keras.Input(IMAGE_SHAPE, name="image")
    if mode:
        x = ImagenetPreprocessing(mode, name=f"{mode}_preprocessing")(x)
    x = base(x)
    if is_vgg and report.initialised:
        normalise_scale(keras.Model(inputs, x), base.get_layer(report.initialised[0]))
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    base.trainable = not is_vgg
    if not is_vgg:
        x = keras.layers.GlobalAveragePooling2D(name="average_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = _multiclass_head(x, n_classes, () if is_vgg else (512,), dropout, seed)
    return keras.Model(inputs, outputs, name=backbone), report


def build_multiclass_head(n_features, n_classes=4, hidden=(), dropout=0.0, seed=0):
    """Build the head of `build_multiclass` alone, for cached features: [n, n_features] -> [n, n_classes].

    `hidden` gives the units of the layers before `feature_dense`: none for VGG, (512,) for a MobileNet.
    """
    inputs = keras.Input((n_features,), name="flatten_features")
    return keras.Model(
        inputs, _multiclass_head(inputs, n_classes, hidden, dropout, seed), name="multiclass_head"
    )


def build_binary_head(n_features, dropout=0.0, seed=0):
    """Build the head of `build_vgg16_binary` alone, for cached features: [n, n_features] -> [n, 1]."""
    inputs = keras.Input((n_features,), name="flatten_features")
    return keras.Model(inputs, _binary_head(inputs, dropout, seed), name="binary_head")


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
    features = np.asarray(base.predict_on_batch(noise), "float32")
    layer.kernel.assign(layer.kernel / float(np.sqrt(np.mean(np.square(features)))))


def _binary_head(x, dropout, seed):
    x = _dropout(x, dropout, seed, "dropout_flatten")
    x = _dense(x, 256, "relu", "dense_feature", seed + 1)
    x = _dropout(x, dropout, seed + 1, "dropout_feature")
    return _dense(x, 1, "sigmoid", "probability", seed + 2, dtype="float32")


def _multiclass_head(x, n_classes, hidden, dropout, seed):
    x = _dropout(x, dropout, seed, "dropout_flatten")
    for k, units in enumerate(hidden):
        x = _dense(x, units, "relu", f"dense_{units}", seed + 10 + k)
    x = _dense(x, 256, "relu", "feature_dense", seed + 1)
    x = _dropout(x, dropout, seed + 1, "dropout_feature")
    return _dense(x, n_classes, "softmax", "probabilities", seed + 2, dtype="float32")


def _dense(x, units, activation, name, seed, dtype=None):
    kernel = keras.initializers.GlorotUniform(seed=seed)
    layer = keras.layers.Dense(
        units, activation=activation, kernel_initializer=kernel, name=name, dtype=dtype
    )
    return layer(x)


def _dropout(x, rate, seed, name):
    return keras.layers.Dropout(rate, seed=seed, name=name)(x) if rate else x
