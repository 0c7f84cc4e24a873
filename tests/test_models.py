"""The report's networks: their parameters, preprocessing, layers and outputs."""

import keras
import numpy as np
import pytest
from keras import applications, layers

from utils import models

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 224, 224, 3))
FEATURES = RNG.normal(size=(5, 32))


@pytest.fixture(scope="module")
def mobilenet():
    base, _ = models.build_backbone("MobileNet", "none")
    return base


@pytest.fixture(scope="module")
def classifier(mobilenet):
    return models.build_classifier(mobilenet, 4, seed=1)


@pytest.mark.parametrize(
    ("n_outputs", "total", "trainable"),
    [(1, 21_137_729, 6_423_041), (4, 21_138_500, 6_423_812)],
)
def test_vgg16_has_the_report_s_parameters(n_outputs, total, trainable):
    base, _ = models.build_backbone("VGG16", "none")
    base.trainable = False
    head = models.build_head(7 * 7 * 512, n_outputs)
    features = layers.Flatten()(base.output)
    model = keras.Model(base.input, head(features))
    assert models.count_parameters(model) == {
        "total": total,
        "trainable": trainable,
        "non-trainable": 14_714_688,
    }


def test_mobilenet_has_the_report_s_parameters(classifier):
    assert models.count_parameters(classifier) == {
        "total": 3_886_020,
        "trainable": 3_864_132,
        "non-trainable": 21_888,
    }


def scaled_images(architecture, scaling):
    """What enters a backbone's first convolution."""
    base, _ = models.build_backbone(architecture, "none", scaling)
    for layer in base.layers:
        if isinstance(layer, layers.Conv2D):
            break
    scaler = keras.Model(base.input, layer.input)
    return scaler.predict_on_batch(IMAGES)


@pytest.mark.parametrize(
    ("architecture", "module"),
    [
        ("VGG16", applications.vgg16),
        ("MobileNet", applications.mobilenet),
    ],
)
def test_imagenet_scaling_is_that_of_the_weights(architecture, module):
    expected = module.preprocess_input(IMAGES.astype("float32"))
    scaled = scaled_images(architecture, "imagenet")
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["MobileNet", "MobileNetV3Small"])
def test_the_template_s_scaling_divides_by_255(architecture):
    scaled = scaled_images(architecture, "1/255")
    np.testing.assert_allclose(scaled, IMAGES / 255, rtol=1e-5)


def test_another_scaling_is_refused():
    with pytest.raises(ValueError, match="scaling must be .*ImageNet"):
        models.build_backbone("MobileNet", "none", scaling="ImageNet")


def test_the_classifier_averages_the_maps(mobilenet, classifier):
    average = classifier.get_layer("flatten").output
    averages = keras.Model(classifier.input, average).predict_on_batch(IMAGES)
    maps = mobilenet.predict_on_batch(IMAGES)
    np.testing.assert_allclose(averages, maps.mean(axis=(1, 2)), rtol=1e-3)


def test_the_classifier_s_dense_layers(classifier):
    configs = [layer.get_config() for layer in classifier.layers[-3:]]
    assert [config["units"] for config in configs] == [512, 256, 4]
    activations = [config["activation"] for config in configs]
    assert activations == ["relu", "relu", "softmax"]


@pytest.mark.parametrize(
    ("options", "momentum"), [({}, 0.99), ({"momentum": 0.75}, 0.75)]
)
def test_the_momentum_is_keras_own_until_it_is_set(options, momentum, mobilenet):
    model = models.build_classifier(mobilenet, 4, **options)
    nested = model.layers[1].layers
    norms = [layer for layer in nested if isinstance(layer, layers.BatchNormalization)]
    assert [norm.momentum for norm in norms] == 27 * [momentum]


def test_dropout_adds_no_parameter_and_acts_in_training_only():
    plain = models.build_head(32, 4, seed=1)
    dropout = models.build_head(32, 4, dropout=0.5, seed=1)
    expected = plain.predict_on_batch(FEATURES)
    assert dropout.count_params() == plain.count_params()
    assert np.array_equal(dropout.predict_on_batch(FEATURES), expected)
    assert not np.allclose(dropout(FEATURES, training=True), expected)


def test_the_seed_decides_the_first_weights():
    kernels = []
    for seed in (1, 1, 2):
        head = models.build_head(32, 4, seed=seed)
        kernels.append(head.layers[1].get_weights()[0])
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.parametrize(("n_outputs", "activation"), [(1, "sigmoid"), (4, "softmax")])
def test_the_activation_of_the_logits_gives_the_probabilities(n_outputs, activation):
    head = models.build_head(32, n_outputs, hidden=(16, 8))
    logits = models.logits_model(head).predict_on_batch(FEATURES)
    activate = keras.activations.get(activation)
    expected = head.predict_on_batch(FEATURES)
    np.testing.assert_allclose(activate(logits), expected, rtol=1e-5)
