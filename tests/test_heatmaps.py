"""Grad-CAM: maps known by hand, inlined and nested backbones, sigmoid and softmax, the real architectures."""

import keras
import numpy as np
import pytest

from utils.heatmaps import default_layer, grad_cam, shares_by_class
from utils.models import build_multiclass, build_vgg16_binary

SIZE, SPOT = 8, (slice(1, 3), slice(4, 7))


def layer(made, shape, *weights):
    """A layer that is built for inputs [n, *shape], with these weights."""
    made.build((None, *shape))
    made.set_weights([np.array(w, "float32") for w in weights])
    return made


def convolution():
    """Two channels: the first sees what is brighter than 100, the second what is darker."""
    made = keras.layers.Conv2D(2, 1, activation="relu", name="conv")
    return layer(made, (SIZE, SIZE, 1), [[[[1, -1]]]], [-100, 100])


def dense(kernel):
    """The last layer, with a sigmoid for one unit and a softmax for more; `kernel` has a row a feature."""
    n, units = np.shape(kernel)
    made = keras.layers.Dense(units, activation="sigmoid" if units == 1 else "softmax", name="last")
    return layer(made, (n,), kernel, np.full(units, 0.3))


def chain(*layers):
    inputs = x = keras.Input((SIZE, SIZE, 1))
    for part in layers:
        x = part(x)
    return keras.Model(inputs, x)


def pooled(kernel):
    """Convolution, global average pooling, and a dense layer: Grad-CAM of it is known."""
    return chain(convolution(), keras.layers.GlobalAveragePooling2D(), dense(kernel))


# Grey (100, which no channel sees); the first has a bright spot, the second a dark one, the last none.
IMAGES = np.full((3, SIZE, SIZE, 1), 100, "uint8")
IMAGES[0][SPOT], IMAGES[1][SPOT] = 200, 40
NOISE = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1)).astype("uint8")
SPOTLIT = np.zeros((SIZE, SIZE), "float32")
SPOTLIT[SPOT] = 1


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_what_speaks_for_a_label_lights_up_and_nothing_else(scale):
    """Bright speaks for label 1, dark for label 0, a grey image for neither; also where the sigmoid is 1."""
    model = pooled([[scale], [-scale]])
    assert (model.predict_on_batch(IMAGES)[0] == 1) == (scale == 1000)
    for label, bright, dark in ((1, SPOTLIT, 0), (0, 0, SPOTLIT)):
        heat = grad_cam(model, IMAGES, [label] * 3)
        assert heat.shape == (3, SIZE, SIZE) and heat.dtype == np.float32 and not heat[2].any()
        np.testing.assert_allclose(heat[0], bright, atol=1e-6)
        np.testing.assert_allclose(heat[1], dark, atol=1e-6)


def test_maps_of_a_softmax_by_the_equations_of_the_papers():
    """Where Flatten keeps the places apart, Grad-CAM averages a class's weights over them; HiResCAM not."""
    kernel = np.random.default_rng(2).normal(size=(SIZE * SIZE * 2, 3))
    model, labels = chain(convolution(), keras.layers.Flatten(), dense(kernel)), [0, 1, 2, 1, 0]
    weights = kernel.T[labels].reshape(5, SIZE, SIZE, 2)
    features = np.maximum((NOISE - 100.0) * [1, -1], 0)
    for elementwise, by_place in ((False, weights.mean(axis=(1, 2), keepdims=True)), (True, weights)):
        expected = np.maximum((features * by_place).sum(axis=-1), 0)
        peaks = expected.max(axis=(1, 2), keepdims=True)
        assert (peaks > 0).sum() >= 2
        found = grad_cam(model, NOISE, labels, elementwise=elementwise)
        np.testing.assert_allclose(found, expected / np.maximum(peaks, 1e-9), atol=1e-5)


def test_a_coarse_map_is_resized_to_the_image():
    """One of 4 x 4 places is hot: bilinear, it falls off to the middles of its neighbours, and peaks at 1."""
    blur = keras.layers.Conv2D(2, 2, strides=2)
    blur = layer(blur, (SIZE, SIZE, 2), np.full((2, 2, 1, 1), 0.25) * np.eye(2), [0, 0])
    images = np.full((1, SIZE, SIZE, 1), 100)
    images[0, 2:4, 4:6] = 200  # one place exactly
    model = chain(convolution(), blur, keras.layers.GlobalAveragePooling2D(), dense([[1.0], [-1.0]]))
    heat = grad_cam(model, images, [1])[0]
    line = np.array([0, 0.25, 0.75, 0.75, 0.25, 0]) / 0.75
    expected = np.zeros((SIZE, SIZE))
    expected[0:6, 2:8] = np.outer(line, line)
    np.testing.assert_allclose(heat, expected, atol=1e-6)


def test_batches_give_the_same_as_one():
    model, labels = pooled([[1.0, -1.0], [-0.5, 1.0]]), [0, 1, 1, 0, 1]
    whole = grad_cam(model, NOISE, labels)
    np.testing.assert_allclose(grad_cam(model, NOISE, labels, batch_size=2), whole, atol=1e-6)
    assert grad_cam(model, NOISE[:0], []).shape == (0, SIZE, SIZE)


def layers_before_the_head():
    """A backbone with normalisation, which would give other maps, and move its statistics, in training."""
    norm = keras.layers.BatchNormalization(name="norm")
    norm = layer(norm, (SIZE, SIZE, 2), [1.5, 0.5], [0.1, 0.2], [20, 10], [900, 400])
    return [convolution(), norm, keras.layers.ReLU(name="relu"), keras.layers.MaxPooling2D(name="pool")]


@pytest.mark.parametrize(("depth", "last"), [(1, "conv"), (2, "norm"), (3, "relu"), (4, "relu")])
def test_nested_and_inlined_layers_give_the_same_and_stay_as_they_are(depth, last):
    backbone, labels = layers_before_the_head()[:depth], [0, 1, 2, 3, 0]
    kernel = np.random.default_rng(3).normal(size=(SIZE * SIZE * 2 // (4 if depth == 4 else 1), 4))
    top = [keras.layers.Flatten(), keras.layers.Dropout(0.5), dense(kernel)]
    nested, inlined = chain(chain(*backbone), *top), chain(*backbone, *top)
    before = nested.get_weights()
    assert default_layer(nested) == default_layer(inlined) == last
    maps = grad_cam(inlined, NOISE, labels)
    assert maps.any(axis=(1, 2)).sum() >= 2
    np.testing.assert_allclose(grad_cam(nested, NOISE, labels), maps, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(before, nested.get_weights(), strict=True))


def test_a_model_without_maps_says_so():
    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="flat has no layer whose output is 4-D"):
        default_layer(keras.Model(inputs, dense(np.ones((6, 1)))(inputs), name="flat"))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 1], [0, 1], [[0], [1], [1]]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be 3 integers of 0 to 1"):
        grad_cam(pooled([[1.0], [-1.0]]), IMAGES, labels)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: build_vgg16_binary(download=False), "block5_conv3"),
        (lambda: build_multiclass("MobileNet", download=False), "conv_pw_13_relu"),
    ],
    ids=["inlined VGG16", "nested MobileNet"],
)
def test_the_real_architectures_have_maps_of_the_images_size(build, expected):
    model, _ = build()
    assert default_layer(model) == expected
    blocks = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3))
    images = np.kron(blocks, np.ones((1, 8, 8, 1)))
    # Of a label and its opposite at least one has a map; Flatten can leave the other without.
    heat = np.stack([grad_cam(model, images, [label]) for label in range(max(2, model.output_shape[1]))])
    assert heat.shape[1:] == (1, 224, 224) and heat.min() >= 0 and heat.max() == 1


def test_hirescam_is_grad_cam_before_global_pooling():
    model, labels = pooled([[0.7, -0.2], [0.1, 0.9]]), [0, 1, 0, 1, 1]
    both = [grad_cam(model, NOISE, labels, elementwise=mode) for mode in (False, True)]
    assert both[0].any()
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-6)


def test_shares_by_class_count_heat_and_leave_maps_of_zeros_out():
    heat = np.zeros((5, 2, 3), "float32")
    heat[0, 0, 0], heat[0, 1, 2] = 0.25, 0.75  # a quarter of it inside
    heat[1, 0, 0] = 0.1  # all of it
    heat[4] = 1  # spread evenly
    mask = np.array([[1, 0, 0], [1, 0, 0]])
    table = shares_by_class(heat, mask, [0, 0, 0, 1, 2], ["COVID-19", "Normal", "Viral", "Bacterial"])
    assert list(table.index) == ["COVID-19", "Normal", "Viral", "Bacterial"]
    assert table["images"].tolist() == [3, 1, 1, 0] and table["maps without heat"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(table["mean share inside"], [0.625, np.nan, 1 / 3, np.nan])
    np.testing.assert_allclose(table["share if spread evenly"], 1 / 3)
    with pytest.raises(IndexError):
        shares_by_class(heat, mask.T, [0] * 5, ["COVID-19"])
