"""ImageNet weights: from a folder, from Keras, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from utils.models import build_backbone
from utils.pretrained import load_imagenet

FILE = "mobilenet_imagenet.npz"


def small_backbone(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, name="conv1", bias_initializer="normal"),
            layers.DepthwiseConv2D(3, use_bias=False, name="conv_dw_1"),
        ]
    )


@pytest.fixture
def base():
    return small_backbone(seed=0)


@pytest.fixture
def imagenet():
    """A backbone whose weights count as ImageNet's."""
    return small_backbone(seed=1)


@pytest.fixture
def arrays(imagenet):
    keys = ["conv1/kernel", "conv1/bias", "conv_dw_1/depthwise_kernel"]
    return dict(zip(keys, imagenet.get_weights(), strict=True))


def test_a_file_gives_every_weight(base, imagenet, arrays, tmp_path):
    np.savez(tmp_path / FILE, **arrays)
    source = load_imagenet(base, "MobileNet", str(tmp_path))
    assert str(source) == f"MobileNet: ImageNet weights ({FILE})"
    np.testing.assert_equal(base.get_weights(), imagenet.get_weights())


def test_without_a_file_weights_stay_random_and_are_called_so(base, tmp_path):
    before = base.get_weights()
    for folder in ("none", str(tmp_path)):
        source = load_imagenet(base, "MobileNet", folder)
        assert "RANDOM weights" in str(source)
    np.testing.assert_equal(base.get_weights(), before)


def test_a_missing_folder_is_refused(base):
    with pytest.raises(FileNotFoundError, match="WEIGHTS=/not/here .*Remedy"):
        load_imagenet(base, "MobileNet", "/not/here")


@pytest.mark.parametrize(
    "biases",
    [{}, {"conv1/bias": np.zeros(5)}],
    ids=["missing", "another shape"],
)
def test_a_file_that_does_not_fit_is_refused(biases, base, arrays, tmp_path):
    del arrays["conv1/bias"]
    np.savez(tmp_path / FILE, **arrays, **biases)
    with pytest.raises(ValueError, match=f"(?s){FILE}.*Remedy"):
        load_imagenet(base, "MobileNet", str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs"])
def test_a_corrupt_file_is_refused(content, base, tmp_path):
    tmp_path.joinpath(FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{FILE} cannot be read.*Remedy"):
        load_imagenet(base, "MobileNet", str(tmp_path))


def test_keras_own_weights_are_loaded(base, imagenet, monkeypatch):
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **options: imagenet)
    assert load_imagenet(base, "MobileNet").is_imagenet
    np.testing.assert_equal(base.get_weights(), imagenet.get_weights())


def test_without_a_network_weights_stay_random(base, monkeypatch):
    def fail(**options):
        raise Exception("URL fetch failure on https://x.y: None -- timed out")

    monkeypatch.setattr(keras.applications, "MobileNet", fail)
    source = load_imagenet(base, "MobileNet")
    assert "RANDOM weights (Keras' download failed: timed out)" in str(source)


@pytest.mark.shared
@pytest.mark.parametrize("architecture", ["VGG16", "MobileNet"])
def test_the_shared_files_fit(architecture, shared):
    _, source = build_backbone(architecture, str(shared / "weights"))
    assert source.is_imagenet
