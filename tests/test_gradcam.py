"""Grad-CAM: maps known by hand, inlined and nested backbones, sigmoid and softmax, the real architectures."""

import keras
import numpy as np
import pytest

from utils.gradcam import default_layer, grad_cam, share_inside, shares_by_class
from utils.models import build_multiclass, build_vgg16_binary

SIZE, SPOT = 8, (slice(1, 3), slice(4, 7))


def convolution():
    """Two channels, weights fixed: the first sees what is bright, the second what is dark."""
    conv = keras.layers.Conv2D(2, 1, activation="relu", name="conv")
    conv.build((None, SIZE, SIZE, 1))
    conv.set_weights([np.array([1.0, -1.0]).reshape(1, 1, 1, 2), np.array([-100.0, 100.0])])
    return conv


def dense(kernel):
    """The last layer, with a sigmoid for one unit and a softmax for more; `kernel` has a row a feature."""
    kernel = np.array(kernel, "float32")
    units = kernel.shape[1]
    layer = keras.layers.Dense(units, activation="sigmoid" if units == 1 else "softmax", name="last")
    layer.build((None, len(kernel)))
    layer.set_weights([kernel, np.full(units, 0.3)])
    return layer


def chain(*layers):
    inputs = x = keras.Input((SIZE, SIZE, 1))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def pooled(kernel):
    """Convolution, global average pooling, and a dense layer: Grad-CAM of it is known."""
    return chain(convolution(), keras.layers.GlobalAveragePooling2D(), dense(kernel))


@pytest.fixture
def images():
    """Three grey images (100, which no channel sees), of which the first has a bright spot, the last none."""
    images = np.full((3, SIZE, SIZE, 1), 100, "uint8")
    images[0][SPOT], images[1][SPOT] = 200, 40
    return images


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1)).astype("uint8")


def spot():
    expected = np.zeros((SIZE, SIZE), "float32")
    expected[SPOT] = 1
    return expected


# Maps that are known


def test_what_speaks_for_a_label_lights_up_and_nothing_else(images):
    """Bright speaks for label 1, dark for label 0; a grey image for neither."""
    model = pooled([[1.0], [-1.0]])
    for label, bright, dark in ((1, spot(), 0), (0, 0, spot())):
        heat = grad_cam(model, images, [label] * 3)
        assert heat.shape == (3, SIZE, SIZE) and heat.dtype == np.float32
        np.testing.assert_allclose(heat[0], bright, atol=1e-6)
        np.testing.assert_allclose(heat[1], dark, atol=1e-6)
        assert not heat[2].any()


def test_a_map_is_the_features_weighted_by_the_dense_layer(noise):
    """With global average pooling the gradient is the dense weight over the number of places."""
    kernel = np.random.default_rng(1).normal(size=(2, 3))
    labels = np.array([0, 1, 2, 1, 0])
    features = np.maximum((noise - 100.0) * [1, -1], 0)
    expected = np.maximum(np.einsum("nijk,kn->nij", features, kernel[:, labels] / SIZE**2), 0)
    peaks = expected.max(axis=(1, 2), keepdims=True)
    assert (peaks > 0).all()
    np.testing.assert_allclose(grad_cam(pooled(kernel), noise, labels), expected / peaks, atol=1e-5)


def test_weights_of_places_are_averaged(noise):
    """Where Flatten keeps the places apart, a channel's weight is the mean of its weights at all places."""
    kernel = np.random.default_rng(2).normal(size=(SIZE * SIZE * 2, 1))
    model = chain(convolution(), keras.layers.Flatten(), dense(kernel))
    features = np.maximum((noise - 100.0) * [1, -1], 0)
    expected = np.maximum(features @ kernel.reshape(-1, 2).mean(axis=0), 0)
    peaks = expected.max(axis=(1, 2), keepdims=True)
    assert (peaks > 0).all()
    np.testing.assert_allclose(grad_cam(model, noise, np.ones(5, int)), expected / peaks, atol=1e-5)


def test_a_coarse_map_is_resized_to_the_image(images):
    """One of 4 x 4 places is hot: bilinear, it falls off to the middles of its neighbours, and peaks at 1."""
    blur = keras.layers.AveragePooling2D(2, name="blur")
    images[0] = 100
    images[0, 2:4, 4:6] = 200  # one place exactly
    model = chain(convolution(), blur, keras.layers.GlobalAveragePooling2D(), dense([[1.0], [-1.0]]))
    heat = grad_cam(model, images, [1, 1, 1], "blur")[0]
    line = np.array([0, 0.25, 0.75, 0.75, 0.25, 0]) / 0.75
    expected = np.zeros((SIZE, SIZE))
    expected[0:6, 2:8] = np.outer(line, line)
    np.testing.assert_allclose(heat, expected, atol=1e-6)


def test_a_saturated_output_still_has_a_map(images):
    model = pooled([[1000.0], [-1000.0]])
    assert model.predict_on_batch(images)[0] == 1
    np.testing.assert_allclose(grad_cam(model, images[:1], [1])[0], spot(), atol=1e-6)


def test_a_sigmoid_is_a_softmax_of_two_whose_logits_are_opposite(noise):
    kernel = np.array([[0.7], [0.4]])
    one, two = pooled(kernel), pooled(np.hstack([-kernel, kernel]))
    for label in (0, 1):
        labels = np.full(5, label)
        np.testing.assert_allclose(grad_cam(one, noise, labels), grad_cam(two, noise, labels), atol=1e-6)


def test_batches_give_the_same_as_one(noise):
    model, labels = pooled([[1.0, -1.0], [-0.5, 1.0]]), [0, 1, 1, 0, 1]
    whole = grad_cam(model, noise, labels)
    np.testing.assert_allclose(grad_cam(model, noise, labels, batch_size=2), whole, atol=1e-6)
    assert grad_cam(model, noise[:0], []).shape == (0, SIZE, SIZE)


# Inlined and nested


def layers_before_the_head():
    """A backbone with normalisation, which would give other maps, and move its statistics, in training."""
    norm = keras.layers.BatchNormalization(name="norm")
    norm.build((None, SIZE, SIZE, 2))
    norm.set_weights([np.array(w) for w in ([1.5, 0.5], [0.1, 0.2], [20.0, 10.0], [900.0, 400.0])])
    return [convolution(), norm, keras.layers.ReLU(name="relu"), keras.layers.MaxPooling2D(name="pool")]


def head():
    kernel = np.random.default_rng(3).normal(size=(SIZE * SIZE // 2, 4))
    return [keras.layers.Flatten(), keras.layers.Dropout(0.5), dense(kernel)]


@pytest.mark.parametrize("name", [None, "conv", "norm", "relu", "pool"])
def test_nested_and_inlined_layers_give_the_same(name, noise):
    backbone, top = layers_before_the_head(), head()
    nested = chain(chain(*backbone), *top)
    inlined = chain(*backbone, *top)
    assert default_layer(nested) == default_layer(inlined) == "relu"
    labels = [0, 1, 2, 3, 0]
    maps = grad_cam(inlined, noise, labels, name)
    assert maps.any(axis=(1, 2)).sum() >= 2
    np.testing.assert_allclose(grad_cam(nested, noise, labels, name), maps, atol=1e-6)


def test_the_model_stays_as_it_is(noise, tmp_path):
    """Its weights and statistics too, and it can be saved, and explained again, afterwards."""
    model = chain(chain(*layers_before_the_head()), *head())
    before, probabilities = model.get_weights(), model.predict_on_batch(noise)
    maps = grad_cam(model, noise, [0, 1, 2, 3, 0])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert np.array_equal(model.predict_on_batch(noise), probabilities)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(grad_cam(again, noise, [0, 1, 2, 3, 0]), maps, atol=1e-6)


# What cannot be explained


@pytest.mark.parametrize("name", ["absent", "flatten", "last"])
def test_a_layer_without_a_map_is_named_with_the_choice(name, images):
    model = chain(chain(*layers_before_the_head()), keras.layers.Flatten(name="flatten"), *head()[1:])
    with pytest.raises(ValueError, match=f"no layer '{name}'.*4-D.*: conv, norm, relu, pool$"):
        grad_cam(model, images, [1, 1, 1], name)


def test_a_model_without_maps_says_so():
    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="features has no layer whose output is 4-D"):
        default_layer(keras.Model(inputs, dense(np.ones((6, 1)))(inputs), name="features"))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 1], [0, 1], [[0], [1], [1]]])
def test_labels_that_do_not_fit_are_refused(labels, images):
    with pytest.raises(ValueError, match="labels must be 3 integers of 0 to 1"):
        grad_cam(pooled([[1.0], [-1.0]]), images, labels)


# The project's models


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: build_vgg16_binary(download=False), "block5_conv3"),
        (lambda: build_multiclass("VGG16", dropout=0.25, download=False), "block5_conv3"),
        (lambda: build_multiclass("MobileNet", download=False), "conv_pw_13_relu"),
    ],
    ids=["inlined VGG16", "nested VGG16", "nested MobileNet"],
)
def test_the_real_architectures_have_maps_of_the_images_size(build, expected):
    blocks = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3))
    images = np.kron(blocks, np.ones((1, 8, 8, 1))).astype("uint8")
    model, _ = build()
    assert default_layer(model) == expected
    # Of a label and its opposite at least one has a map; Flatten can leave the other without.
    heat = np.stack([grad_cam(model, images, [label] * 2) for label in range(max(2, model.output_shape[1]))])
    assert heat.shape[1:] == (2, 224, 224) and heat.min() >= 0
    assert (heat.max(axis=(0, 2, 3)) == 1).all()


# Heat inside a region


def test_share_inside_counts_heat_and_not_places():
    heat = np.zeros((4, 2, 3), "float32")
    heat[0, 0, 0], heat[0, 1, 2] = 0.25, 0.75
    heat[1] = 1
    heat[2, 0, 0] = 1
    mask = np.array([[True, False, False], [True, False, False]])
    share = share_inside(heat, mask)
    assert share.shape == (4,)
    np.testing.assert_allclose(share[:3], [0.25, 1 / 3, 1], rtol=1e-6)
    assert np.isnan(share[3])
    np.testing.assert_allclose(share_inside(heat[:3], ~mask), 1 - share[:3], atol=1e-6)
    np.testing.assert_array_equal(share_inside(heat, mask.astype(int)), share)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(IndexError):
        share_inside(np.ones((1, 2, 3)), np.ones((3, 2), bool))


def test_hirescam_sees_what_the_average_over_places_forgets(images):
    """Flatten and dense: the bright spot speaks for class 1, the same brightness anywhere else against it."""
    kernel = np.full((SIZE, SIZE, 2), -1.0)
    kernel[SPOT] = 1
    kernel[..., 1] = 0
    model = chain(convolution(), keras.layers.Flatten(), dense(kernel.reshape(-1, 1)))
    labels = np.ones(3, int)
    assert not grad_cam(model, images, labels).any()
    np.testing.assert_allclose(grad_cam(model, images, labels, elementwise=True)[0], spot(), atol=1e-6)


def test_hirescam_is_grad_cam_before_global_pooling(noise):
    model = pooled([[0.7, -0.2], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1, 1])
    both = [grad_cam(model, noise, labels, elementwise=mode) for mode in (False, True)]
    assert both[0].any()
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-6)


def test_shares_by_class_leave_maps_of_zeros_out_and_count_them():
    heat = np.zeros((4, 2, 2), "float32")
    heat[0, 0, 0] = heat[1, 0] = 1  # all of it inside; half of it
    mask = np.array([[True, False], [False, False]])
    table = shares_by_class(heat, mask, [0, 0, 0, 1], ["COVID-19", "Normal"])
    assert table["COVID-19"] == {"images": 3, "maps without heat": 1, "mean share inside": 0.75}
    assert table["Normal"]["maps without heat"] == 1 and np.isnan(table["Normal"]["mean share inside"])
