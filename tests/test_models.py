"""The report's models: exact counts and layers, their preprocessing and scale, their parts and costs."""

import keras
import numpy as np
import pytest

from utils import models
from utils.features import apply
from utils.models import (
    build_binary_head,
    build_multiclass,
    build_multiclass_head,
    build_vgg16_binary,
    split_at,
)

OURS = ["image", "caffe_preprocessing"]
COUNTS = {
    "VGG16_binary": (21_137_729, 6_423_041, 14_714_688),
    "VGG19_binary": (26_447_425, 6_423_041, 20_024_384),
    "VGG16": (21_138_500, 6_423_812, 14_714_688),
    "MobileNet": (3_886_020, 3_864_132, 21_888),
}


@pytest.fixture(scope="module")
def images():
    """Four random images of blocks, so that they have contours."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3))
    return np.kron(blocks, np.ones((1, 8, 8, 1))).astype("uint8")


@pytest.fixture(scope="module")
def built():
    """Every model of the report, once: name -> (model, report)."""
    both = [build_vgg16_binary(name, rate, None, False, 1) for name, rate in (("VGG16", 0), ("VGG19", 0.25))]
    both += [build_multiclass(name, download=False, seed=1) for name in ("VGG16", "MobileNet")]
    return {model.name: (model, report) for model, report in both}


def names(model):
    return [layer.name for layer in model.layers]


def nested(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


# Architectures


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_report(name, built):
    model, report = built[name]
    expected = dict(zip(("total", "trainable", "non-trainable"), COUNTS[name], strict=True))
    assert models.count_parameters(model) == expected and model.count_params() == expected["total"]
    assert report.pretrained == () and not report.complete


@pytest.mark.parametrize("backbone", ["VGG16", "VGG19"])
def test_task_1_inlines_the_layers_of_vgg_and_trains_the_head_only(backbone, built):
    model, _ = built[f"{backbone}_binary"]
    own = names(getattr(keras.applications, backbone)(include_top=False, weights=None))[1:]
    head = ["flatten", "dense_feature", "probability"]
    if backbone == "VGG19":  # built with dropout
        head = ["flatten", "dropout_flatten", "dense_feature", "dropout_feature", "probability"]
    assert names(model) == [*OURS, *own, *head]
    assert [layer.name for layer in model.layers if layer.trainable_weights] == [
        "dense_feature",
        "probability",
    ]
    dense, output = model.get_layer("dense_feature"), model.layers[-1]
    assert (dense.units, dense.activation) == (256, keras.activations.relu)
    assert (output.units, output.activation) == (1, keras.activations.sigmoid)


def test_task_2_nests_its_backbone(built, images):
    vgg, mobile = built["VGG16"][0], built["MobileNet"][0]
    assert names(vgg) == [*OURS, "vgg16", "flatten", "feature_dense", "probabilities"]
    assert names(mobile)[-5:] == ["average_pool", "flatten", "dense_512", "feature_dense", "probabilities"]
    assert nested(mobile).count_params() == 3_228_864
    norms = [layer for layer in nested(mobile).layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 27 and {layer.momentum for layer in norms} == {0.9}
    np.testing.assert_allclose(mobile.predict_on_batch(images[:2]).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("build", [build_vgg16_binary, build_multiclass])
def test_an_unknown_backbone_is_named_with_the_choice(build):
    with pytest.raises(ValueError, match="VGG16.*VGG19.*'ResNet50'"):
        build("ResNet50", download=False)


def test_a_mobilenet_moves_its_statistics_by_the_momentum_and_in_training_only(images):
    model, _ = build_multiclass("MobileNet", momentum=0.75, download=False)
    norm = nested(model).get_layer("conv1_bn")
    before = np.array(norm.moving_mean)
    model(images[:4], training=False)
    np.testing.assert_array_equal(norm.moving_mean, before)
    model(images[:4], training=True)
    first = np.array(norm.moving_mean)
    model(images[:4], training=True)
    # Of the distance to the batch's mean, each step leaves 0.75.
    batch_mean = before + (first - before) / 0.25
    expected = batch_mean + 0.75**2 * (before - batch_mean)
    np.testing.assert_allclose(np.array(norm.moving_mean), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("trainable", [True, False])
def test_the_fused_normalisation_is_keras_own(trainable):
    """The output, and all weights after steps of training: gradients and moving statistics agree."""
    rng, found = np.random.default_rng(0), []
    x, y = (rng.normal(3, 2, (4, 5, 6, 7)).astype("float32") for _ in range(2))
    start = [rng.uniform(0.5, 2, 7) for _ in range(4)]
    for kind in (keras.layers.BatchNormalization, models.FusedBatchNormalization):
        model = keras.Sequential([keras.Input(x.shape[1:]), norm := kind(momentum=0.7, trainable=trainable)])
        norm.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        losses = [model.train_on_batch(x, y) for _ in range(3)]
        found.append([*losses, model.predict_on_batch(x), *norm.get_weights()])
    for keras_own, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-5)
    assert np.allclose(found[1][-4:], start) != trainable


# Preprocessing and scale


@pytest.mark.parametrize("backbone", ["VGG16", "VGG19", "MobileNet", "MobileNetV2"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocessing_is_that_of_the_backbone(backbone, dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(dtype)
    module = {"MobileNetV2": "mobilenet_v2"}.get(backbone, backbone.lower())
    expected = getattr(keras.applications, module).preprocess_input(images.astype("float32"))
    layer = models.ImagenetPreprocessing(models.PREPROCESSING[backbone])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(images)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["VGG16_binary", "VGG19_binary", "VGG16"])
def test_untrained_convolutions_keep_the_features_at_unit_scale(name, built, images):
    features = models.feature_model(built[name][0], "flatten").predict_on_batch(images[:2])
    assert 0.3 < np.sqrt(np.mean(np.square(features))) < 3


# Heads alone


@pytest.mark.parametrize("build", [build_binary_head, build_multiclass_head])
def test_a_head_may_scale_its_features_and_drop_some_without_a_parameter(build):
    x = np.random.default_rng(0).normal(size=(5, 32)).astype("float32")
    plain, other = build(32, seed=1), build(32, dropout=0.25, scale=0.5, seed=1)
    added = {"feature_scale", "dropout_flatten", "dropout_feature"}
    assert set(names(other)) - set(names(plain)) == added and names(other)[1] == "feature_scale"
    assert models.count_parameters(plain) == models.count_parameters(other)
    assert models.count_parameters(plain)["total"] == 33 * 256 + 257 * plain.output_shape[1]
    np.testing.assert_allclose(apply(plain, x), apply(other, 2 * x), rtol=1e-5)


@pytest.mark.parametrize("name", ["VGG16_binary", "VGG16"])
def test_a_head_alone_is_the_head_of_the_whole_model_of_that_seed(name, built):
    build = {"VGG16": build_multiclass_head}.get(name, build_binary_head)
    _, head = split_at(built[name][0], "flatten")
    same, other = build(25_088, seed=1).get_weights(), build(25_088, seed=2).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(same, head.get_weights(), strict=True))
    assert not np.array_equal(same[0], other[0])


# Parts


CUTS = [("VGG16_binary", "block3_conv3"), ("VGG16_binary", "flatten"), ("VGG16", "vgg16")]
CUTS += [("VGG16", "block4_conv2"), ("VGG16", "block5_pool"), ("MobileNet", "conv_pw_6_relu")]


@pytest.mark.parametrize(("name", "layer"), [*CUTS, ("MobileNet", "feature_dense")])
def test_parts_in_a_row_give_what_the_whole_gives(name, layer, built, images):
    model, _ = built[name]
    base, head = split_at(model, layer)
    assert base.count_params() + head.count_params() == model.count_params()
    assert base.output_shape == head.input_shape
    np.testing.assert_allclose(apply(head, apply(base, images[:2])), apply(model, images[:2]), atol=1e-5)


def test_training_from_a_middle_layer_on_trains_the_model_from_there_on(images):
    """Its nested backbone's later layers and their statistics among it; what comes before stays."""
    model, _ = build_multiclass("MobileNet", download=False)
    base, head = split_at(model, "conv_pw_6_relu")
    before = {v.path: np.array(v) for v in model.variables}
    logits = models.logits_model(head)
    logits.compile(keras.optimizers.SGD(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
    logits.train_on_batch(apply(base, images), np.eye(4, dtype="float32"))
    inside = names(nested(model))
    later = set(inside[inside.index("conv_pw_6_relu") :]) | set(names(head))
    for v in model.variables:
        assert np.array_equal(before[v.path], v) != (v.path.split("/")[-2] in later), v.path
    whole = apply(model, images)
    assert not np.allclose(whole[0], whole[1]) and not np.allclose(apply(head, apply(base, images)), 0.25)
    np.testing.assert_allclose(apply(head, apply(base, images)), whole, atol=1e-5)


@pytest.mark.parametrize("layer", ["absent", "probability", "image", ""])
def test_a_cut_where_there_is_no_inner_layer_names_those_that_there_are(layer, built):
    with pytest.raises(ValueError, match=f"no inner layer '{layer}'.*block1_conv1.*flatten, dense_feature"):
        split_at(built["VGG16_binary"][0], layer)


def test_a_cut_beside_a_residual_connection_is_refused():
    model, _ = build_multiclass("MobileNetV2", download=False)
    with pytest.raises(ValueError, match="cannot be cut at block_2_project_BN: a path leads past it"):
        split_at(model, "block_2_project_BN")
    assert split_at(model, "block_2_add")[0].output_shape == (None, 56, 56, 24)


@pytest.mark.parametrize("build", [build_binary_head, build_multiclass_head])
def test_logits_are_the_probabilities_before_their_activation(build):
    model, x = build(32), np.random.default_rng(0).normal(size=(7, 32)).astype("float32")
    logits = models.logits_model(model)
    activated = model.layers[-1].activation(keras.ops.convert_to_tensor(apply(logits, x)))
    np.testing.assert_allclose(activated, apply(model, x), atol=1e-6)
    assert models.count_parameters(logits) == models.count_parameters(model)
    assert np.abs(apply(logits, 1000 * x)).max() > 100  # more than float32 probabilities can tell


# Costs


def test_multiply_adds_of_hand_computed_layers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)  # 8 * 8 * 4 * (3 * 3 * 3) = 6912
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)  # 4 * 4 * 4 * (3 * 3) = 576
    inner = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))  # 64 * 10 = 640
    outer = keras.Input((8, 8, 3))
    assert models.multiply_adds(keras.Model(outer, inner(outer))) == 6912 + 576 + 640


@pytest.mark.parametrize(("name", "billions"), [("VGG16", 15.35), ("MobileNet", 0.568)])
def test_multiply_adds_are_the_published_ones(name, billions, built):
    assert models.multiply_adds(nested(built[name][0])) / 1e9 == pytest.approx(billions, rel=2e-3)


def test_one_line_a_layer():
    lines = [line.split() for line in models.layer_lines(build_binary_head(4))]
    assert lines[0] == ["flatten_features", "(4,)", "0"] and lines[-1] == ["probability", "(1,)", "257"]
