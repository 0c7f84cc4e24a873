"""Weights: what is loaded where, what is said about the rest, and broken files that are named, not used."""

import io

import keras
import numpy as np
import pytest

from utils import weights
from utils.weights import PARTIAL_FILES, load_backbone_weights, read_weight_file

SHAPES = {"block1_conv1": (3, 3, 3, 8), "block1_conv2": (3, 3, 8, 8), "block2_conv1": (3, 3, 8, 64)}


def convolutions():
    """Three small convolutions, named as in VGG16."""
    layers = []
    for name, shape in SHAPES.items():
        layer = keras.layers.Conv2D(shape[3], 3, name=name)
        layer.build((None, 8, 8, shape[2]))
        layers.append(layer)
    return layers


def arrays_for(*names):
    """Made-up weights of the named convolutions."""
    rng = np.random.default_rng(0)
    return {
        f"{name}/{variable}": rng.normal(size=shape).astype("float32")
        for name in names
        for variable, shape in (("kernel", SHAPES[name]), ("bias", SHAPES[name][3:]))
    }


@pytest.fixture
def folder(tmp_path):
    """Write arrays as the partial file of an architecture, and return its folder."""

    def write(arrays, architecture="VGG16"):
        np.savez(tmp_path / PARTIAL_FILES[architecture], **arrays)
        return tmp_path

    return write


@pytest.fixture
def keras_has(monkeypatch):
    """Let Keras' own download give these arrays, or a note; count how often it is asked."""

    def give(arrays, note=""):
        asked = []
        monkeypatch.setattr(weights, "_keras_imagenet", lambda name: asked.append(name) or (arrays, note))
        return asked

    return give


@pytest.fixture
def application(monkeypatch):
    """Let a class of `keras.applications` raise an error or return a model, in place of any download."""

    def replace(result, name="VGG16"):
        def build(**settings):
            assert settings == {"include_top": False, "weights": "imagenet", "input_shape": (224, 224, 3)}
            print("Downloading data from somewhere")
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(keras.applications, name, build)

    return replace


def is_set(layer, arrays):
    values = [np.asarray(v) for v in layer.weights]
    return all(
        np.array_equal(v, arrays[f"{layer.name}/{k}"])
        for k, v in zip(("kernel", "bias"), values, strict=True)
    )


# What is loaded, and what is said about it


def test_complete_download_needs_no_folder(keras_has, tmp_path):
    arrays = arrays_for(*SHAPES)
    asked = keras_has(arrays)
    layers = convolutions()
    report = load_backbone_weights(layers, "VGG16", tmp_path / "absent")
    assert asked == ["VGG16"] and all(is_set(layer, arrays) for layer in layers)
    assert report.complete and report.pretrained == tuple(SHAPES) and report.initialised == ()
    assert str(report) == "VGG16: 3 of 3 convolutions pre-trained (ImageNet, Keras' own file)"


def test_failed_download_falls_back_to_the_folder_and_says_so(keras_has, folder):
    arrays = arrays_for("block1_conv1", "block1_conv2")
    keras_has({}, "No route.")
    layers = convolutions()
    report = load_backbone_weights(layers, "VGG16", folder(arrays))
    assert is_set(layers[0], arrays) and is_set(layers[1], arrays)
    assert not report.complete
    assert report.pretrained == ("block1_conv1", "block1_conv2") and report.initialised == ("block2_conv1",)
    assert str(report) == (
        "VGG16: 2 of 3 convolutions pre-trained (ImageNet, vgg19_imagenet_partial.npz); "
        "He-initialised: block2_conv1.\nNo route."
    )


def test_no_download_is_tried_when_none_is_wanted(keras_has, folder):
    asked = keras_has(arrays_for(*SHAPES))
    report = load_backbone_weights(
        convolutions(), "VGG16", folder(arrays_for("block1_conv1")), download=False
    )
    assert asked == [] and report.pretrained == ("block1_conv1",) and report.note == ""


def test_without_any_source_everything_is_initialised():
    layers = convolutions()
    report = load_backbone_weights(layers, "VGG16", download=False)
    assert not report.complete and report.pretrained == report.identity == ()
    assert report.initialised == tuple(SHAPES) and report.source == "no pre-trained weights"
    assert all(np.all(np.asarray(layer.bias) == 0) for layer in layers)


def test_architecture_without_a_partial_file_is_noted(tmp_path):
    report = load_backbone_weights(convolutions(), "Xception", tmp_path, download=False)
    assert "no file for Xception" in str(report) and report.pretrained == ()


def test_layers_may_come_from_a_generator(folder):
    report = load_backbone_weights(
        (layer for layer in convolutions()), "VGG16", folder(arrays_for("block1_conv1")), download=False
    )
    assert report.pretrained == ("block1_conv1",) and len(report.initialised) == 2


def test_keys_of_other_layers_do_no_harm(folder):
    arrays = {**arrays_for("block1_conv1"), "block9_conv9/kernel": np.zeros((1, 1), "float32")}
    report = load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)
    assert report.pretrained == ("block1_conv1",)


@pytest.mark.shared
@pytest.mark.parametrize(("architecture", "pretrained"), [("VGG16", 7), ("VGG19", 8), ("MobileNet", 26)])
def test_real_partial_files(architecture, pretrained, pytestconfig):
    build = getattr(keras.applications, architecture)
    base = build(include_top=False, weights=None, input_shape=(224, 224, 3))
    shared = pytestconfig.rootpath.parent / "shared" / "weights"
    report = load_backbone_weights(base.layers, architecture, shared, download=False)
    assert len(report.pretrained) == pretrained
    assert report.identity == (("conv_pw_13",) if architecture == "MobileNet" else ())
    assert report.initialised[:1] == (() if architecture == "MobileNet" else ("block4_conv1",))


# Files that are broken


def test_wrong_shape_names_the_layer(folder):
    arrays = arrays_for("block1_conv1", "block1_conv2")
    arrays["block1_conv2/kernel"] = np.zeros((3, 3, 8, 9), "float32")
    with pytest.raises(ValueError, match=r"block1_conv2.*\(3, 3, 8, 8\).*\(3, 3, 8, 9\)"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)


@pytest.mark.parametrize("missing", ["kernel", "bias"])
def test_half_a_layer_is_refused(missing, folder):
    arrays = arrays_for("block1_conv1", "block1_conv2")
    del arrays[f"block1_conv2/{missing}"]
    with pytest.raises(ValueError, match=f"block1_conv2 is incomplete, block1_conv2/{missing} is missing"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)


def test_file_of_another_network_is_refused(folder):
    arrays = {"stem/kernel": np.zeros((3, 3, 3, 8), "float32")}
    with pytest.raises(ValueError, match="not one layer"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_names_its_key(value, folder):
    arrays = arrays_for("block1_conv1", "block1_conv2")
    arrays["block1_conv2/bias"][3] = value
    with pytest.raises(ValueError, match=r"block1_conv2/bias.*not finite.*anew"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)


@pytest.mark.parametrize("values", [np.arange(8), np.array(["a"] * 8), np.array([None] * 8, object)])
def test_values_that_are_no_floats_are_refused(values, folder):
    arrays = {**arrays_for("block1_conv2"), "block1_conv1/bias": values}
    with pytest.raises(ValueError, match=r"vgg19_imagenet_partial\.npz.*anew"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays), download=False)


def npy(good):
    """A sound file of the other format, which holds one array without a name."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(1))
    return stream.getvalue()


def flipped(good):
    """The file with one bit changed in the middle of its data."""
    return good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good[: len(good) // 2],
        lambda good: b"version https://git-lfs",
        lambda good: b"",
        flipped,
        npy,
    ],
    ids=["truncated", "not a zip", "empty", "one bit", "an .npy"],
)
def test_corrupt_file_is_named_with_the_remedy(spoil, save, tmp_path):
    path = tmp_path / "file.npz"
    save(path, **arrays_for("block2_conv1"))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"file\.npz is corrupt.*Fetch"):
        read_weight_file(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_gives_another_error_or_a_changed_value(save, tmp_path):
    path, arrays = tmp_path / "file.npz", {"a/kernel": np.arange(100, dtype="float32")}
    save(path, **arrays)
    good = path.read_bytes()
    for position in range(0, len(good), 2):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        try:
            read = read_weight_file(path)
        except ValueError:
            continue
        assert all(np.array_equal(values, arrays["a/kernel"]) for values in read.values()), position


def test_whole_file_is_read_as_it_was_written(folder):
    arrays = arrays_for(*SHAPES)
    read = read_weight_file(folder(arrays) / PARTIAL_FILES["VGG16"])
    assert read.keys() == arrays.keys() and all(np.array_equal(read[k], arrays[k]) for k in arrays)


@pytest.mark.parametrize("place", ["", "absent"])
def test_missing_file_or_folder_is_named_with_the_remedy(place, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vgg19_imagenet_partial\.npz.*XRAY_WEIGHTS"):
        load_backbone_weights(convolutions(), "VGG16", tmp_path / place, download=False)


def test_nothing_is_set_by_a_file_that_is_refused_at_reading(folder):
    arrays = arrays_for(*SHAPES)
    arrays["block2_conv1/bias"][0] = np.nan
    layers = convolutions()
    before = [np.array(layer.kernel) for layer in layers]
    with pytest.raises(ValueError):
        load_backbone_weights(layers, "VGG16", folder(arrays), download=False)
    assert all(np.array_equal(layer.kernel, kernel) for layer, kernel in zip(layers, before, strict=True))


# Initialisation of the rest


def kernels(seed):
    layers = convolutions()
    load_backbone_weights(layers, "VGG16", download=False, seed=seed)
    return [np.asarray(layer.kernel) for layer in layers]


def test_initialisation_follows_the_seed():
    first, again, other = kernels(1), kernels(1), kernels(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_layers_of_one_shape_differ():
    layers = [keras.layers.Conv2D(8, 3, name=name) for name in ("a", "b")]
    for layer in layers:
        layer.build((None, 8, 8, 8))
    load_backbone_weights(layers, "VGG16", download=False)
    assert not np.array_equal(layers[0].kernel, layers[1].kernel)


def test_he_keeps_the_scale():
    """He et al. (2015): a standard deviation of sqrt(2 / fan_in)."""
    kernel = kernels(0)[2]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (3 * 3 * 8)), rel=0.03)
    assert abs(kernel.mean()) < 0.01


def test_he_counts_one_channel_for_a_depthwise_kernel():
    """Each output of a depthwise convolution sees one channel only: 9 values, however many channels."""
    layer = keras.layers.DepthwiseConv2D(3, use_bias=False, name="conv_dw_1")
    layer.build((None, 8, 8, 512))
    load_backbone_weights([layer], "MobileNet", download=False)
    assert np.asarray(layer.kernel).std() == pytest.approx(np.sqrt(2 / 9), rel=0.05)


# The pass-through of MobileNet's last convolution


@pytest.fixture(scope="module")
def mobilenet():
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3), alpha=0.25)


def test_last_pointwise_convolution_passes_its_input_through(mobilenet, folder):
    rng = np.random.default_rng(0)
    # The real file holds the batch normalisation of the convolution that it lacks; here, too.
    arrays = {
        f"conv_pw_13_bn/{name}": rng.uniform(1, 2, 256).astype("float32")
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    arrays["conv_dw_13/depthwise_kernel"] = rng.normal(size=(3, 3, 256, 1)).astype("float32")
    report = load_backbone_weights(mobilenet.layers, "MobileNet", folder(arrays, "MobileNet"), download=False)
    assert report.identity == ("conv_pw_13",) and not report.complete
    assert report.pretrained == ("conv_dw_13",)
    assert "passing their input through: conv_pw_13" in str(report)
    ends = [mobilenet.get_layer(name).output for name in ("conv_dw_13_relu", "conv_pw_13_relu")]
    tail = keras.Model(mobilenet.get_layer("conv_dw_13").input, ends)
    before, after = (np.asarray(x) for x in tail(rng.uniform(0, 6, (4, 2, 2, 256)).astype("float32")))
    assert before.min() == 0 and before.max() == 6 and before.std() > 1  # both ends of ReLU6
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_untrained_mobilenet_passes_nothing_through(mobilenet):
    report = load_backbone_weights(mobilenet.layers, "MobileNet", download=False)
    assert report.identity == () and "conv_pw_13" in report.initialised and len(report.initialised) == 27


# Keras' own download, which no test starts


def test_unreachable_server_gives_no_weights_and_the_reason(application, capsys):
    application(Exception("URL fetch failure on https://somewhere: None -- [Errno -3] no name resolution"))
    arrays, note = weights._keras_imagenet("VGG16")
    assert arrays == {} and "could not be downloaded" in note
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), TimeoutError("timed out")])
def test_broken_connection_gives_no_weights_either(error, application):
    application(error)
    arrays, note = weights._keras_imagenet("VGG16")
    assert arrays == {} and "could not be downloaded" in note


def test_unreachable_server_and_no_folder_is_told_in_the_report(application):
    application(Exception("URL fetch failure on https://somewhere"))
    report = load_backbone_weights(convolutions(), "VGG16")
    assert report.pretrained == () and "could not be downloaded" in str(report)


def test_corrupt_file_in_keras_cache_is_named_with_the_remedy(application, folder):
    application(OSError("Unable to synchronously open file (file signature not found)"))
    with pytest.raises(ValueError, match=r"VGG16.*signature.*Delete.*~/\.keras/models"):
        load_backbone_weights(convolutions(), "VGG16", folder(arrays_for("block1_conv1")))


def test_keras_weights_are_keyed_as_in_the_files(application):
    layers = [keras.layers.Conv2D(2, 1, name="a"), keras.layers.DepthwiseConv2D(3, name="b")]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    application(model, "MobileNet")
    arrays, note = weights._keras_imagenet("MobileNet")
    assert sorted(arrays) == ["a/bias", "a/kernel", "b/bias", "b/depthwise_kernel"] and note == ""
    assert np.array_equal(arrays["b/depthwise_kernel"], layers[1].kernel)
