"""The report's models: a backbone with its preprocessing, and a head of dense layers; their parts and costs.
Imports session and weights of ours. A model takes RGB of 0 to 255, is a chain of layers, of which one may be
a nested backbone, and ends in probabilities."""

import math

import keras
import numpy as np

from . import session
from .weights import load_backbone_weights

IMAGE_SHAPE = (224, 224, 3)
# The mode of `keras.applications.imagenet_utils.preprocess_input` that each backbone was trained with.
PREPROCESSING = {"VGG16": "caffe", "VGG19": "caffe", "MobileNet": "tf", "MobileNetV2": "tf"}
PREPROCESSING |= {"MobileNetV3Small": None, "MobileNetV3Large": None}  # their own first layer


@keras.saving.register_keras_serializable(package="xray")
class ImagenetPreprocessing(keras.layers.Layer):
    """Map RGB of 0 to 255 to BGR minus ImageNet's mean (mode "caffe") or to -1..1 ("tf"); no parameters."""

    def __init__(self, mode, **kwargs):
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, images):
        preprocess = keras.applications.imagenet_utils.preprocess_input
        return preprocess(keras.ops.cast(images, "float32"), data_format="channels_last", mode=self.mode)

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="xray")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, trained on a CPU by TensorFlow's one kernel for it: MobileNet's epoch takes 0.6 times."""

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable) or session.BACKEND != "tensorflow" or session.has_gpu():
            return super().call(inputs, training=training, mask=mask)
        options = {"epsilon": self.epsilon, "mean": [], "variance": [], "is_training": True}
        fused = session.tf.raw_ops.FusedBatchNormV3(x=inputs, scale=self.gamma, offset=self.beta, **options)
        n = keras.ops.cast(keras.ops.size(inputs[..., 0]), "float32")
        now = (fused.batch_mean, fused.batch_variance * (1 - 1 / n))  # Keras' is of n, the kernel's of n - 1
        for moving, value in zip((self.moving_mean, self.moving_variance), now, strict=True):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return fused.y


def build_vgg16_binary(backbone="VGG16", dropout=0.0, weight_folder=None, download=True, seed=0):
    """Build the model of Task 1 (the report's Figure 1): frozen VGG16 inlined, `dense_feature`, a sigmoid.
    `dropout` is the rate after Flatten and before the output (0 adds no layer); `seed` decides all random
    weights; `backbone` is "VGG16" or "VGG19". Returns the model, [n, 224, 224, 3] -> [n, 1], the probability
    of label 1 (21,137,729 parameters, 6,423,041 of them trainable), and a WeightReport."""
    inputs, x, _, report = _base(backbone, ("VGG16", "VGG19"), None, weight_folder, download, seed)
    outputs = _head(keras.layers.Flatten(name="flatten")(x), 1, dropout, seed)
    return keras.Model(inputs, outputs, name=f"{backbone}_binary"), report


def build_multiclass(backbone, dropout=0.0, momentum=0.9, weight_folder=None, download=True, seed=0):
    """Build a model of Task 2: a nested backbone, a head with `feature_dense`, a softmax; and a WeightReport.
    VGG is frozen, its head Flatten and 256 units (VGG16: 21,138,500 parameters, 6,423,812 trainable). A
    MobileNet is fine-tuned whole, its head global average pooling, Flatten, 512 and 256 units (MobileNet:
    3,886,020 and 3,864,132). `momentum` is of the backbone's batch normalisations: Keras' 0.99 lets their
    statistics lag hundreds of steps behind the weights. The rest is as for `build_vgg16_binary`."""
    inputs, x, base, report = _base(backbone, PREPROCESSING, momentum, weight_folder, download, seed)
    if base.trainable:
        x = keras.layers.GlobalAveragePooling2D(name="average_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = _head(x, 4, dropout, seed, 512 if base.trainable else 0)
    return keras.Model(inputs, outputs, name=backbone), report


def build_binary_head(n_features, dropout=0.0, scale=1.0, seed=0):
    """Build the head of `build_vgg16_binary` alone, for cached features, first multiplied by `scale`."""
    return build_multiclass_head(n_features, 1, dropout, scale, seed)


def build_multiclass_head(n_features, n_classes=4, dropout=0.0, scale=1.0, seed=0):
    """Build the head of `build_multiclass`'s VGG alone, for cached features, first multiplied by `scale`."""
    inputs = x = keras.Input((n_features,), name="flatten_features")
    x = keras.layers.Rescaling(scale, name="feature_scale")(x) if scale != 1 else x
    return keras.Model(inputs, _head(x, n_classes, dropout, seed), name="head")


def split_at(model, layer_name):
    """Cut a model after a layer into (base, head), which share its layers: training the head trains it.
    The layer may lie inside a nested backbone. ValueError if there is none, or a path leads past it."""
    layers = model.layers[1:]
    inside = [(layer.name, *(part.name for part in getattr(layer, "layers", ())[1:])) for layer in layers]
    k = next((k for k, names in enumerate(inside[:-1]) if layer_name in names), None)
    if k is None:
        names = ", ".join(layer.name for layer in layers)
        raise ValueError(f"{model.name} has no inner layer {layer_name!r}; it has {names} and what they hold")
    whole, front, rest = layers[k], layers[: k + 1], layers[k + 1 :]
    if layer_name != whole.name and (cut := whole.get_layer(layer_name).output) is not whole.output:
        try:  # the outer model knows a nested one as a whole: only within its own graph can it be cut
            front[-1], rest[:0] = keras.Model(whole.input, cut), [keras.Model(cut, whole.output)]
            bypassed = len(front[-1].layers) + len(rest[0].layers) != len(whole.layers) + 1
        except ValueError:  # newer Keras sees it itself
            bypassed = True
        if bypassed:
            raise ValueError(f"{whole.name} cannot be cut at {layer_name}: a path leads past it")
    base = _chain(model.input_shape[1:], front, f"{model.name}_base")
    return base, _chain(base.output_shape[1:], rest, f"{model.name}_head")


def feature_model(model, layer_name):
    """The part of a model that ends in the named layer; see `split_at`."""
    return split_at(model, layer_name)[0]


class Logits(keras.layers.Layer):
    """What a dense layer gives before its activation, with the dense layer's own weights."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return keras.ops.matmul(x, self.dense.kernel) + self.dense.bias


def logits_model(model):
    """A model without the activation of its last dense layer; training it trains `model`.
    In float32 the loss of a saturated sigmoid or softmax has no gradient: nothing would be learnt."""
    *layers, dense = model.layers[1:]
    return _chain(model.input_shape[1:], [*layers, Logits(dense, name="logits")], f"{model.name}_logits")


def count_parameters(model):
    """Parameters of a model: {"total", "trainable", "non-trainable"}."""
    total, trainable = model.count_params(), sum(math.prod(v.shape) for v in model.trainable_weights)
    return {"total": total, "trainable": trainable, "non-trainable": total - trainable}


def layer_lines(model):
    """One line a layer: name, output shape without the batch, parameters."""
    rows = [(layer.name, str(layer.output.shape[1:]), layer.count_params()) for layer in model.layers]
    return [f"{name:20} {shape:16} {n:>10,}" for name, shape, n in rows]


def multiply_adds(model):
    """Multiply-adds of one image in convolutions and dense layers, nested ones too, without their biases."""
    total = sum(multiply_adds(layer) for layer in model.layers if isinstance(layer, keras.Model))
    for layer in model.layers:
        if hasattr(layer, "kernel"):  # each output takes its fan-in; a depthwise one sees one channel
            fan_in = 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else -1
            total += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:fan_in])
    return total


def _base(backbone, known, momentum, weight_folder, download, seed):
    """A model's input, what its backbone gives, the backbone, and a WeightReport.
    It is inlined, or, with the momentum of its batch normalisations, nested."""

    def own_layer(layer):
        kind, config = type(layer), layer.get_config()
        if kind is keras.layers.BatchNormalization:
            kind, config = FusedBatchNormalization, config | {"momentum": momentum}
        return kind.from_config(config)

    if backbone not in known:
        raise ValueError(f"backbone must be one of {', '.join(known)}, not {backbone!r}")
    inputs, mode = keras.Input(IMAGE_SHAPE, name="image"), PREPROCESSING[backbone]
    x = ImagenetPreprocessing(mode, name=f"{mode}_preprocessing")(inputs) if mode else inputs
    own = {"input_shape": IMAGE_SHAPE} if momentum else {"input_tensor": x}
    base = getattr(keras.applications, backbone)(include_top=False, weights=None, **own)
    base = keras.models.clone_model(base, clone_function=own_layer) if momentum else base
    report = load_backbone_weights(base.layers, backbone, weight_folder, download, seed)
    x, base.trainable = base(x) if momentum else base.output, not backbone.startswith("VGG")
    if report.initialised and not base.trainable:
        # He's blocks keep the several hundred of VGG's inner activations: without biases, one kernel brings
        # the root mean square on noise to 1 (as Mishkin and Matas, ICLR 2016, do layer by layer).
        noise = np.kron(np.random.default_rng(0).uniform(0, 255, (4, 14, 14, 1)), np.ones((1, 16, 16, 3)))
        features = np.asarray(keras.Model(inputs, x).predict_on_batch(noise))
        kernel = base.get_layer(report.initialised[0]).kernel
        kernel.assign(kernel / float(np.sqrt(np.mean(np.square(features)))))
    return inputs, x, base, report


def _head(x, outputs, dropout, seed, hidden=0):
    """The report's dense layers on flat features, named as there; a size of 0 leaves a layer out."""
    feature, last, end = "feature_dense", "probabilities", "softmax"
    if outputs == 1:
        feature, last, end = "dense_feature", "probability", "sigmoid"
    layers = [(dropout, None, "dropout_flatten", seed), (hidden, "relu", f"dense_{hidden}", seed + 10)]
    layers += [(256, "relu", feature, seed + 1), (dropout, None, "dropout_feature", seed + 1)]
    layers += [(outputs, end, last, seed + 2)]
    for size, activation, name, own in [row for row in layers if row[0]]:
        kernel = keras.initializers.GlorotUniform(own)
        if activation:
            x = keras.layers.Dense(size, activation, kernel_initializer=kernel, name=name)(x)
        else:
            x = keras.layers.Dropout(size, seed=own, name=name)(x)
    return x


def _chain(shape, layers, name):
    """A model that applies layers one after the other. Layers may serve in several such models at once."""
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)
