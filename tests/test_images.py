"""Images become the pixels that they show, or an error that helps."""

import numpy as np
import pytest
from PIL import Image

from utils.images import ImageError, git_blob_sha1, read_image, read_images


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_grey_images_are_read_from_any_format(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.new("L", (12, 8), 100).save(path)
    pixels = read_image(path, size=5)
    assert pixels.shape == (5, 5, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 100).max() <= 1


COLOURED = {  # mode and stored colour: colour shown
    ("RGB", (10, 20, 30)): [10, 20, 30],
    ("RGBA", (10, 20, 30, 255)): [10, 20, 30],
    ("RGBA", (100, 200, 50, 51)): [20, 40, 10],
    ("LA", (100, 51)): [20, 20, 20],
}


@pytest.mark.parametrize(("mode", "colour"), COLOURED)
def test_transparent_colours_are_laid_over_black(mode, colour, tmp_path):
    path = tmp_path / "x.png"
    Image.new(mode, (9, 9), colour).save(path)
    pixels = read_image(path, size=1)
    assert pixels.ravel().tolist() == COLOURED[mode, colour]


def test_a_palette_is_looked_up(tmp_path):
    path = tmp_path / "x.png"
    image = Image.new("P", (9, 9), 1)
    image.putpalette([0, 0, 0, 200, 30, 60])
    image.save(path)
    pixels = read_image(path, size=1)
    assert pixels.ravel().tolist() == [200, 30, 60]


DEEP = [("I;16", "png"), ("I;16", "tif"), ("I", "tif"), ("F", "tif")]
OTHER = [("1", "png"), ("CMYK", "jpg"), ("L", "jp2")]


@pytest.mark.parametrize(("mode", "suffix"), DEEP + OTHER)
def test_other_images_are_refused(mode, suffix, tmp_path):
    path = tmp_path / f"röntgen 1.{suffix}"
    Image.new(mode, (9, 9)).save(path)
    with pytest.raises(
        ImageError, match="röntgen 1.* not .*Remedy: export it as 8-bit"
    ):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_several_frames_or_pages_are_refused(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    second = Image.new("L", (9, 9), 200)
    Image.new("L", (9, 9)).save(path, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="several pages.*Remedy"):
        read_image(path)


def test_too_many_pixels_are_refused(tmp_path):
    Image.new("L", (8200, 8200)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="pixels.*Remedy"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("n_bytes", [0, 20, 500])
def test_broken_files_are_named_with_the_remedy(n_bytes, tmp_path):
    path = tmp_path / "x.jpg"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:n_bytes])
    with pytest.raises(ImageError, match=r"x\.jpg.*Remedy"):
        read_images([path])


@pytest.mark.parametrize("read", [read_image, git_blob_sha1])
def test_an_absent_file_is_named(read, tmp_path):
    with pytest.raises(ImageError, match="absent.*Remedy"):
        read(tmp_path / "absent")


STORED = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)
UPRIGHT = {  # by the EXIF standard
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: STORED[::-1].T,
    7: STORED[::-1, ::-1].T,
    8: STORED[:, ::-1].T,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_their_exif_says(orientation, tmp_path):
    path = tmp_path / "x.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(STORED).save(path, exif=exif)
    pixels = read_image(path, size=4)
    assert np.array_equal(pixels[:, :, 0], UPRIGHT[orientation])


def test_shrinking_does_not_alias(tmp_path):
    path = tmp_path / "x.png"
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (512, 256))
    Image.fromarray(stripes).save(path)
    pixels = read_image(path, size=100)
    inner = pixels[:, 2:-2].astype(int)
    assert np.abs(inner - 127).max() < 20


def test_several_images_keep_their_order(tmp_path):
    paths = []
    for grey in (30, 10, 20):
        path = tmp_path / f"{grey}.png"
        Image.new("L", (8, 8), grey).save(path)
        paths.append(path)
    images = read_images(paths, size=4)
    assert images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert read_images([], size=4).shape == (0, 4, 4, 3)


@pytest.mark.shared
def test_the_challenge_s_images_are_what_pillow_decodes(shared):
    root = shared / "data" / "all"
    paths = [*root.rglob("*.png"), *sorted(root.rglob("*.jpeg"))[::9]]
    images = read_images(paths, size=64)
    for path, image in zip(paths, images, strict=True):
        expected = Image.open(path)  # grey, RGB or opaque RGBA, and upright
        if expected.mode != "L":
            expected = expected.convert("RGB")
        expected = expected.resize((64, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(image, np.array(expected.convert("RGB"))), path


def test_the_hash_is_git_s(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    assert git_blob_sha1(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
