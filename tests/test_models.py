"""The report's models: exact counts and layers, their preprocessing, their scale, and whole saved files."""

from functools import partial

import keras
import numpy as np
import pytest

from utils import models
from utils.chains import count_parameters, split_at
from utils.features import apply, frozen_features
from utils.models import ImagenetPreprocessing, build_binary_head, build_vgg16_binary

OURS = ["image", "caffe_preprocessing"]


@pytest.fixture(scope="module")
def images():
    """Four random images of blocks, so that they have contours."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3))
    return np.kron(blocks, np.ones((1, 8, 8, 1))).astype("uint8")


@pytest.fixture(scope="module")
def vgg16():
    return build_vgg16_binary(download=False, seed=1)


@pytest.fixture(scope="module")
def vgg19():
    return build_vgg16_binary("VGG19", dropout=0.25, download=False, seed=1)


def names_of_keras(backbone):
    """Names of the backbone's own layers, without its input."""
    application = getattr(keras.applications, backbone)
    return [layer.name for layer in application(include_top=False, weights=None).layers[1:]]


# The model of Task 1


def test_vgg16_has_the_parameters_of_the_report(vgg16):
    model, report = vgg16
    expected = {"total": 21_137_729, "trainable": 6_423_041, "non-trainable": 14_714_688}
    assert count_parameters(model) == expected
    assert model.count_params() == expected["total"]
    assert len(report.initialised) == 13 and not report.complete


def test_vgg16_has_the_layers_of_the_report(vgg16):
    model, _ = vgg16
    names = [layer.name for layer in model.layers]
    assert names == [*OURS, *names_of_keras("VGG16"), "flatten", "dense_feature", "probability"]
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1)
    dense, output = model.layers[-2:]
    assert (dense.units, output.units) == (256, 1)
    assert (dense.activation, output.activation) == (keras.activations.relu, keras.activations.sigmoid)


def test_only_the_head_of_vgg16_is_trained(vgg16):
    trained = [layer.name for layer in vgg16[0].layers if layer.trainable_weights]
    assert trained == ["dense_feature", "probability"]


def test_vgg19_with_dropout_differs_by_its_own_layers_only(vgg19):
    model, report = vgg19
    assert count_parameters(model) == {
        "total": 26_447_425,
        "trainable": 6_423_041,
        "non-trainable": 20_024_384,
    }
    assert len(report.initialised) == 16
    head = ["flatten", "dropout_flatten", "dense_feature", "dropout_feature", "probability"]
    assert [layer.name for layer in model.layers] == [*OURS, *names_of_keras("VGG19"), *head]


@pytest.mark.parametrize("build", [build_vgg16_binary, models.build_multiclass])
def test_unknown_backbone_is_named_with_the_choice(build):
    with pytest.raises(ValueError, match="VGG16.*VGG19.*'ResNet50'"):
        build("ResNet50", download=False)


def test_features_then_head_equal_the_whole_model(vgg16, images):
    model, _ = vgg16
    base, head = split_at(model, "flatten")
    features = frozen_features(base, images, batch_size=3, progress=False)
    whole = model.predict(images, batch_size=4, verbose=0)
    assert features.shape == (4, 25_088) and whole.shape == (4, 1)
    np.testing.assert_allclose(apply(head, features), whole, atol=1e-5)
    assert np.ptp(whole) > 1e-3


def test_bytes_and_floats_of_one_image_give_the_same(vgg16, images):
    model, _ = vgg16
    few = images[:1]
    np.testing.assert_allclose(
        model.predict_on_batch(few), model.predict_on_batch(few.astype("float32")), atol=1e-6
    )


def test_saved_model_gives_the_same_predictions(vgg16, images, tmp_path):
    model, _ = vgg16
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict_on_batch(images[:2]), model.predict_on_batch(images[:2]))
    assert count_parameters(again) == count_parameters(model)


def test_untrained_convolutions_keep_the_features_at_unit_scale(vgg16, vgg19, images):
    for model, _ in (vgg16, vgg19):
        features = split_at(model, "flatten")[0].predict_on_batch(images[:2])
        assert 0.3 < np.sqrt(np.mean(np.square(features))) < 3


@pytest.mark.shared
def test_partial_weights_keep_the_features_at_unit_scale(images, pytestconfig):
    folder = pytestconfig.rootpath.parent / "shared" / "weights"
    model, report = build_vgg16_binary(weight_folder=folder, download=False)
    assert len(report.pretrained) == 7 and report.initialised[0] == "block4_conv1"
    features = split_at(model, "flatten")[0].predict_on_batch(images[:2])
    assert 0.1 < np.sqrt(np.mean(np.square(features))) < 10


# The head alone


def test_dropout_adds_two_layers_and_no_parameter():
    plain, dropped = build_binary_head(32), build_binary_head(32, dropout=0.25)
    assert [layer.name for layer in plain.layers[1:]] == ["dense_feature", "probability"]
    assert [layer.name for layer in dropped.layers[1:]] == [
        "dropout_flatten",
        "dense_feature",
        "dropout_feature",
        "probability",
    ]
    assert {layer.rate for layer in dropped.layers if isinstance(layer, keras.layers.Dropout)} == {0.25}
    assert count_parameters(plain) == count_parameters(dropped)
    assert count_parameters(plain)["total"] == 32 * 256 + 256 + 256 + 1
    x = np.ones((2, 32), "float32")
    assert np.array_equal(apply(plain, x), apply(dropped, x))  # same seed, and no dropout at prediction


def test_head_alone_is_the_head_of_the_whole_model(vgg16):
    _, head = split_at(vgg16[0], "flatten")
    alone = build_binary_head(25_088, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(alone.get_weights(), head.get_weights(), strict=True))


def test_the_seed_decides_the_initial_weights():
    first, again, other = (build_binary_head(32, seed=seed).get_weights()[0] for seed in (1, 1, 7))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# Preprocessing


@pytest.mark.parametrize(
    ("mode", "module"), [("caffe", "vgg16"), ("caffe", "vgg19"), ("tf", "mobilenet"), ("torch", "densenet")]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocessing_is_that_of_the_backbone(mode, module, dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(dtype)
    before = images.copy()
    expected = getattr(keras.applications, module).preprocess_input(images.astype("float32"))
    result = ImagenetPreprocessing(mode)(images)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result), expected, atol=1e-5)
    assert np.array_equal(images, before)


def test_every_backbone_has_its_own_preprocessing():
    assert {name: models.PREPROCESSING[name] for name in ("VGG16", "VGG19", "MobileNet")} == {
        "VGG16": "caffe",
        "VGG19": "caffe",
        "MobileNet": "tf",
    }


def test_preprocessing_survives_its_configuration():
    layer = ImagenetPreprocessing("tf", name="scale")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (type(again), again.mode, again.name) == (ImagenetPreprocessing, "tf", "scale")
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("mode", ["keras", "", None])
def test_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match="'caffe', 'tf' or 'torch'"):
        ImagenetPreprocessing(mode)


# Scale


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_normalise_scale_gives_unit_root_mean_square(factor):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((224, 224, 3))
    x = keras.layers.Conv2D(4, 3, strides=8, activation="relu", name="first")(inputs)
    base = keras.Model(inputs, keras.layers.Conv2D(5, 3, strides=4, activation="relu", name="second")(x))
    first, second = base.get_layer("first"), base.get_layer("second")
    first.kernel.assign(first.kernel * factor)
    kept = np.array(second.kernel)
    models.normalise_scale(base, first, seed=3)
    blocks = np.random.default_rng(3).uniform(0, 255, (4, 14, 14, 1))
    features = base.predict_on_batch(np.kron(blocks, np.ones((1, 16, 16, 3))))
    assert np.sqrt(np.mean(np.square(features))) == pytest.approx(1, rel=1e-4)
    assert np.array_equal(kept, second.kernel)


# The models of Task 2


def test_multiclass_vgg16_has_the_parameters_of_the_report():
    model, _ = models.build_multiclass("VGG16", download=False)
    assert count_parameters(model) == {
        "total": 21_138_500,
        "trainable": 6_423_812,
        "non-trainable": 14_714_688,
    }
    names = [layer.name for layer in model.layers]
    assert names == [*OURS, "vgg16", "flatten", "feature_dense", "probabilities"]


def test_multiclass_mobilenet_has_the_parameters_of_the_report(images):
    model, _ = models.build_multiclass("MobileNet", download=False)
    assert count_parameters(model) == {"total": 3_886_020, "trainable": 3_864_132, "non-trainable": 21_888}
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert len(nested) == 1 and nested[0].count_params() == 3_228_864
    norms = [layer for layer in nested[0].layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 27 and {layer.momentum for layer in norms} == {0.9}
    assert model.get_layer("feature_dense").units == 256
    probabilities = model.predict_on_batch(images[:2])
    assert probabilities.shape == (2, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


# Batch normalisation while fine-tuning


def outputs(model, images):
    """The output in training mode, and in inference mode before it moves any statistics."""
    inference = keras.ops.convert_to_numpy(model(images, training=False))
    return keras.ops.convert_to_numpy(model(images, training=True)), inference


@pytest.mark.parametrize("build", [models.build_vgg16_binary, partial(models.build_multiclass, "VGG16")])
def test_a_frozen_vgg_gives_the_same_in_training_and_inference(build, images):
    training, inference = outputs(build(download=False)[0], images[:2])
    np.testing.assert_allclose(training, inference, rtol=1e-5, atol=1e-7)


def test_a_mobilenet_normalises_by_the_batch_in_training_and_moves_its_statistics(images):
    """The momentum is the share that the moving mean keeps; only training moves it."""
    model, _ = models.build_multiclass("MobileNet", momentum=0.75, download=False)
    norm = next(m for m in model.layers if isinstance(m, keras.Model)).get_layer("conv1_bn")
    before = np.array(norm.moving_mean)
    inference = keras.ops.convert_to_numpy(model(images[:4], training=False))
    np.testing.assert_array_equal(norm.moving_mean, before)
    training = keras.ops.convert_to_numpy(model(images[:4], training=True))
    assert np.abs(training - inference).max() > 1e-3
    first = np.array(norm.moving_mean)
    model(images[:4], training=True)
    # Of the distance to the batch's mean, each step leaves 0.75.
    batch_mean = before + (first - before) / 0.25
    np.testing.assert_allclose(
        np.array(norm.moving_mean), batch_mean + 0.75**2 * (before - batch_mean), rtol=1e-3, atol=1e-5
    )


def test_a_mobilenet_with_frozen_normalisations_gives_the_same_in_training_and_inference(images):
    model, _ = models.build_multiclass("MobileNet", download=False)
    nested = next(m for m in model.layers if isinstance(m, keras.Model))
    for layer in nested.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    training, inference = outputs(model, images[:2])
    np.testing.assert_allclose(training, inference, rtol=1e-5, atol=1e-7)
