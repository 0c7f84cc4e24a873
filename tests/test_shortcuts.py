"""Planted shortcuts are seen by the baselines that may see them, and by no other."""

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import cross_val_score

from utils.images import ImageError
from utils.shortcuts import LUNG_BOXES, baselines, black_out, file_headers, lung_mask, tiny

LABELS = np.arange(80) % 2
NAMES = {"file header", "16 × 16 pixels", "border alone", "lungs blacked out", "lungs alone"}
PLACES = {
    "border": (slice(0, 4), {"16 × 16 pixels", "border alone", "lungs blacked out"}),
    "lungs": (slice(12, 20), {"16 × 16 pixels", "lungs alone"}),
}


@pytest.fixture(scope="module")
def noise():
    """uint8 [80, 32, 32, 3] without any class."""
    return np.random.default_rng(0).integers(0, 200, (80, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def same_files(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "x.png")
    return [tmp_path / "x.png"] * len(LABELS)


def accuracies(images, paths):
    """Accuracy of each baseline in 5-fold cross-validation."""
    found = baselines(images, paths)
    assert set(found) == NAMES
    return {
        name: cross_val_score(model, features, LABELS, cv=5).mean()
        for name, (features, model) in found.items()
    }


def assert_only(scores, told):
    """At chance, 0.5, a mean of 80 images has a standard deviation of 0.056."""
    for name, accuracy in scores.items():
        assert accuracy > 0.95 if name in told else 0.3 < accuracy < 0.7, (name, accuracy)


def test_without_a_shortcut_all_are_at_chance(noise, same_files):
    assert_only(accuracies(noise, same_files), set())


@pytest.mark.parametrize("place", PLACES)
def test_brightness_by_class_is_seen_where_it_lies(place, noise, same_files):
    """Rows of the border, or of both lungs' middle, are brighter in one of the classes."""
    rows, told = PLACES[place]
    images = noise.copy()
    where = lung_mask(32, 32)[rows] if place == "lungs" else np.ones((4, 32), bool)
    images[:, rows] += (50 * LABELS[:, None, None, None] * where[..., None]).astype(np.uint8)
    assert_only(accuracies(images, same_files), told)


def test_file_size_by_class_is_seen_in_the_header_alone(noise, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(len(LABELS))]
    for path, label in zip(paths, LABELS, strict=True):
        Image.new("L", (32, 32)).save(path, compress_level=9 * int(1 - label))  # equal pixels
    assert_only(accuracies(noise, paths), {"file header"})


def test_blacked_out_and_alone_part_the_image_and_lungs_do_not_touch_the_border(noise, same_files):
    width = {name: features.shape[1] for name, (features, _) in baselines(noise, same_files).items()}
    assert width["lungs blacked out"] + width["lungs alone"] == width["16 × 16 pixels"] == 256
    assert width["border alone"] == 256 - 12 * 12 and width["file header"] == 6
    assert lung_mask(16, 16)[2:-2, 2:-2].sum() == lung_mask(16, 16).sum() == width["lungs alone"]


@pytest.mark.parametrize("shape", [(16, 16), (224, 224), (120, 250), (50, 31)])
def test_lung_mask_is_two_boxes_beside_the_middle(shape):
    mask, (height, width) = lung_mask(*shape), shape
    assert mask.shape == shape and mask.dtype == bool
    share = sum((bottom - top) * (right - left) for top, bottom, left, right in LUNG_BOXES)
    assert mask.sum() == pytest.approx(share * height * width, rel=0.06)
    assert not mask[:, width // 2].any() and not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    np.testing.assert_array_equal(mask, mask[:, ::-1])


def test_lung_mask_of_16_squares_by_hand():
    rows, columns = np.flatnonzero(lung_mask(16, 16).any(1)), np.flatnonzero(lung_mask(16, 16).any(0))
    assert rows.tolist() == list(range(2, 13)) and columns.tolist() == [2, 3, 4, 5, 6, 9, 10, 11, 12, 13]


def test_file_headers_by_hand(tmp_path):
    files = {"grey.jpg": ("L", (40, 20)), "rgb.png": ("RGB", (10, 30)), "rgba.png": ("RGBA", (8, 8))}
    for name, (mode, size) in files.items():
        Image.new(mode, size).save(tmp_path / name)
    paths = [tmp_path / name for name in files]
    grey, rgb, rgba = (path.stat().st_size for path in paths)
    expected = [
        (40, 20, 2, 1, grey, grey * 8 / 800),
        (10, 30, 1 / 3, 3, rgb, rgb * 8 / 300),
        (8, 8, 1, 4, rgba, rgba * 8 / 64),
    ]
    headers = file_headers(paths)
    assert headers.dtype == np.float64
    np.testing.assert_allclose(headers, expected, rtol=1e-15)
    assert file_headers([]).shape == (0, 6)


def test_headers_are_read_without_decoding(tmp_path):
    """A file cut off after its header can be told of, though not be decoded."""
    Image.effect_noise((300, 200), 80).save(whole := tmp_path / "whole.png")
    (cut := tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    assert file_headers([cut])[0].tolist() == [300, 200, 1.5, 1, 200, 1600 / 60000]
    with pytest.raises(OSError):
        Image.open(cut).load()


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_without_a_header_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png has no header .* Remedy"):
        file_headers([tmp_path / "broken.png"])


def test_tiny_is_the_mean_of_each_square():
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[0, 0, 0] = (12, 24, 36)  # one of the six pixels of the first square
    image[0, 2:, 3:] = 255
    result = tiny(image, size=2)
    assert result.dtype == np.float32 and result.tolist() == [[4, 0, 0, 255]]


@pytest.mark.parametrize(
    "shape", [(2, 224, 100, 3), (2, 100, 224, 3), (2, 32, 32), (2, 32, 32, 1), (32, 32, 3)]
)
def test_tiny_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="divisible by 16, not"):
        tiny(np.zeros(shape, np.uint8))


def test_baselines_need_a_path_for_each_image(noise, same_files):
    with pytest.raises(ValueError, match="79 for 80"):
        baselines(noise, same_files[1:])


def test_blacked_out_pixels_are_zero_and_the_others_and_the_original_unchanged():
    images = np.random.default_rng(0).integers(1, 256, (2, 8, 8, 3)).astype("uint8")
    mask, before = lung_mask(8, 8), images.copy()
    black = black_out(images, mask)
    assert black.dtype == np.uint8 and not black[:, mask].any()
    np.testing.assert_array_equal(black[:, ~mask], images[:, ~mask])
    np.testing.assert_array_equal(images, before)
