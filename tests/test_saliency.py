"""Grad-CAM and HiResCAM, compared with gradients that are known without a network."""

import keras
import numpy as np
import pytest
from keras.layers import Dense, Flatten, GlobalAveragePooling2D
from numpy.testing import assert_allclose

from utils.saliency import class_activation, share_inside, upscale

SHAPE = (3, 4, 2)  # height, width and channels of a feature map
RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(5, *SHAPE)).astype("float32")
LABELS = np.array([0, 1, 2, 1, 0])
BINARY_LABELS = np.array([0, 1, 1, 0, 1])
# The gradient of a linear head's logit is the logit's column of its kernel.
KERNEL = RNG.normal(size=(3 * 4 * 2, 3))
GRADIENTS = KERNEL.T.reshape(3, *SHAPE)


def linear_head(pooling, kernel, activation):
    """A pooling layer and a dense layer with this kernel."""
    units = kernel.shape[1]
    dense = Dense(units, activation=activation)
    inputs = keras.Input(SHAPE)
    features = pooling(inputs)
    outputs = dense(features)
    dense.set_weights([kernel, np.full(units, 0.3)])
    return keras.Model(inputs, outputs)


@pytest.fixture
def softmax_head():
    return linear_head(Flatten(), KERNEL, activation="softmax")


@pytest.fixture
def sigmoid_head():
    return linear_head(Flatten(), KERNEL[:, :1], activation="sigmoid")


@pytest.mark.parametrize("elementwise", [False, True])
def test_grad_cam_averages_the_gradient_over_places_and_hirescam_does_not(
    elementwise, softmax_head
):
    weights = GRADIENTS[LABELS]
    if not elementwise:
        weights = weights.mean(axis=(1, 2), keepdims=True)
    support = np.sum(weights * MAPS, axis=-1)
    heat = class_activation(softmax_head, MAPS, LABELS, elementwise)
    assert_allclose(heat, np.maximum(support, 0), atol=1e-5)


def test_label_0_of_a_sigmoid_has_minus_the_logit_as_its_score(sigmoid_head):
    support = np.sum(GRADIENTS[0] * MAPS, axis=-1)
    support[BINARY_LABELS == 0] *= -1
    heat = class_activation(
        sigmoid_head,
        MAPS,
        BINARY_LABELS,
        elementwise=True,
    )
    expected = np.maximum(support, 0)
    assert_allclose(heat, expected, atol=1e-5)


def test_a_saturated_sigmoid_still_has_a_map():
    kernel = np.full((3 * 4 * 2, 1), 1000.0)
    head = linear_head(Flatten(), kernel, activation="sigmoid")
    maps = np.ones((1, *SHAPE))
    heat = class_activation(
        head,
        maps,
        BINARY_LABELS[1:2],
        elementwise=False,
    )
    assert_allclose(heat, 2000.0, rtol=1e-5)


def test_both_maps_agree_before_global_average_pooling():
    kernel = RNG.normal(size=(2, 3))
    head = linear_head(GlobalAveragePooling2D(), kernel, activation="softmax")
    grad_cam = class_activation(
        head,
        MAPS,
        LABELS,
        elementwise=False,
    )
    hirescam = class_activation(
        head,
        MAPS,
        LABELS,
        elementwise=True,
    )
    assert grad_cam.any()
    assert_allclose(grad_cam, hirescam, atol=1e-6)


def test_no_images_give_no_maps(softmax_head):
    heat = class_activation(
        softmax_head,
        MAPS[:0],
        LABELS[:0],
        elementwise=False,
    )
    assert upscale(heat, size=8).shape == (0, 8, 8)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(BINARY_LABELS[:4], id="too few"),
        pytest.param(BINARY_LABELS[:, np.newaxis], id="a column"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, sigmoid_head):
    with pytest.raises(ValueError, match="labels do not fit 5 images"):
        class_activation(sigmoid_head, MAPS, labels, elementwise=False)


def test_a_map_is_resized_bilinearly_and_divided_by_its_own_maximum():
    heat = np.zeros((3, 2, 2), "float32")
    heat[0, 0, 0] = 4
    heat[1, 0, 0] = 0.1
    profile = [1, 0.75, 0.25, 0]
    resized = upscale(heat, size=4)
    expected = np.outer(profile, profile)
    assert_allclose(resized[0], expected, atol=1e-6)
    assert_allclose(resized[1], expected, atol=1e-6)
    assert not resized[2].any()


def test_share_inside_is_the_masked_part_of_the_heat():
    mask = np.zeros((2, 3), bool)
    mask[:, 0] = True
    heat = np.zeros((3, 2, 3), "float32")
    heat[0, 0, 0] = 0.25
    heat[0, 1, 2] = 0.75
    heat[1, 1, 0] = 0.1
    shares = share_inside(heat, mask)
    assert_allclose(shares, [0.25, 1, np.nan])


def test_a_mask_of_another_size_is_refused():
    heat = np.ones((1, 7, 7))
    mask = np.ones((8, 8), bool)
    with pytest.raises(ValueError, match="Remedy: upscale"):
        share_inside(heat, mask)
