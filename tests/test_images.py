"""Decoding: every mode on purpose, bad files with a message that helps, and a cache that cannot lie."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from utils import images
from utils.images import ImageError, git_blob_sha1, read_xray, read_xrays

GREY = 100


def save(path, image, **options):
    image.save(path, **options)
    return path


def flat(mode, colour, size=(12, 8)):
    return Image.new(mode, size, colour)


def palette(transparency=None):
    image = Image.new("P", (12, 8), 1)
    image.putpalette([0, 0, 0, 200, 30, 60])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


CASES = {
    "L": (flat("L", GREY), "png", (GREY,) * 3),
    "LA opaque": (flat("LA", (GREY, 255)), "png", (GREY,) * 3),
    "LA clear": (flat("LA", (GREY, 0)), "png", (0, 0, 0)),
    "1": (flat("1", 1), "png", (255,) * 3),
    "P": (palette(), "png", (200, 30, 60)),
    "P transparent": (palette(1), "png", (0, 0, 0)),
    "P half transparent": (palette(bytes([255, 128])), "png", (100, 15, 30)),
    "RGB": (flat("RGB", (10, 20, 30)), "png", (10, 20, 30)),
    "RGBA opaque": (flat("RGBA", (10, 20, 30, 255)), "png", (10, 20, 30)),
    "RGBA half": (flat("RGBA", (100, 200, 50, 128)), "png", (50, 100, 25)),
    "RGBA clear": (flat("RGBA", (100, 200, 50, 0)), "png", (0, 0, 0)),
    "CMYK": (flat("CMYK", (0, 255, 255, 0)), "tif", (255, 0, 0)),
    "YCbCr": (flat("YCbCr", (GREY, 128, 128)), "tif", (GREY,) * 3),
    "YCbCr jpeg": (flat("YCbCr", (GREY, 128, 128)), "jpg", (GREY,) * 3),
    "I small": (flat("I", GREY), "tif", (GREY,) * 3),
    "F grey levels": (flat("F", float(GREY)), "tif", (GREY,) * 3),
}


@pytest.mark.parametrize("case", CASES)
def test_every_mode_becomes_rgb(case, tmp_path):
    image, suffix, expected = CASES[case]
    pixels = read_xray(save(tmp_path / f"x.{suffix}", image), size=6)
    assert pixels.shape == (6, 6, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_by_its_format_not_by_its_content(suffix, tmp_path):
    ramp = np.repeat(np.array([[0, 25700, 51400]], np.uint16), 3, axis=0)
    pixels = read_xray(save(tmp_path / f"x.{suffix}", Image.fromarray(ramp)), size=3)
    assert pixels[0, :, 0].tolist() == [0, 100, 200]


def test_16_bit_png_of_older_pillow_is_scaled_alike():
    image = Image.fromarray(np.full((3, 3), 25700, np.int32))  # Pillow 10 opens such a file in mode I
    assert np.asarray(images._eight_bit(image, is_png=True)).tolist() == [[100] * 3] * 3


@pytest.mark.parametrize("values", [[-1000, 0, 1000], [0.0, 0.5, 1.0], [0, 40000, 80000]])
def test_beyond_8_bit_without_known_range_is_scaled_by_min_and_max(values, tmp_path):
    dtype = np.float32 if isinstance(values[0], float) else np.int32
    ramp = np.repeat(np.array([values], dtype), 3, axis=0)
    pixels = read_xray(save(tmp_path / "x.tif", Image.fromarray(ramp)), size=3)
    assert np.abs(pixels[0, :, 0].astype(int) - [0, 128, 255]).max() <= 1


def test_exif_orientation_is_applied(tmp_path):
    grey = np.zeros((40, 40), np.uint8)
    grey[:20] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    pixels = read_xray(save(tmp_path / "x.jpg", Image.fromarray(grey), exif=exif), size=40)
    assert pixels[:15].max() < 30 and pixels[25:].min() > 225


def test_animation_gives_its_first_frame(tmp_path):
    frames = [flat("L", 10), flat("L", 240)]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_xray(path, 4).max() <= 10


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    pixels = read_xray(save(tmp_path / "x.png", Image.fromarray(stripes)), size=100)
    assert np.abs(pixels[:, 2:-2].astype(int) - 127).max() < 20


def jpeg_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "jpeg")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b"these are not the pixels you look for", "no image"),
        (jpeg_bytes()[:1500], "truncated"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_named_with_cause_and_remedy(content, cause, tmp_path):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: read_xray(path), lambda: read_xrays([path], progress=False)):
        with pytest.raises(ImageError) as caught:
            read()
        assert "bad.jpg" in str(caught.value) and cause in str(caught.value) and "Remedy" in str(caught.value)


@pytest.mark.parametrize("limit", [60, 30])  # Pillow warns above its limit, and raises above its double
def test_decompression_bomb_is_refused_also_in_threads(limit, tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", flat("L", 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (lambda: read_xray(path), lambda: read_xrays([path] * 4, n_jobs=2, progress=False)):
        with pytest.raises(ImageError, match=r"bomb\.png .*too many pixels"):
            read()


def test_nan_pixels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="finite"):
        read_xray(save(tmp_path / "x.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32))))


@pytest.fixture
def paths(tmp_path):
    return [save(tmp_path / f"{grey}.png", flat("L", grey)) for grey in (30, 10, 20)]


def test_order_is_kept_and_the_bar_can_be_silent(paths, capsys):
    assert read_xrays(paths, 4, n_jobs=3, progress=False)[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert capsys.readouterr() == ("", "")
    read_xrays(paths, 4)
    out, err = capsys.readouterr()
    assert "0/3" in out and not err


def test_no_files_give_an_empty_array():
    assert read_xrays([], 4, progress=False).shape == (0, 4, 4, 3)


def test_second_read_comes_from_the_cache(paths, tmp_path, monkeypatch):
    first = read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False)
    monkeypatch.setattr(images, "_decode", None)
    assert np.array_equal(first, read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_cache_notices_other_content_order_size_and_decoder(paths, tmp_path, monkeypatch):
    def read(files=paths, size=4):
        return read_xrays(files, size, cache_dir=tmp_path / "cache", progress=False)

    assert read()[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert read(paths[::-1])[:, 0, 0, 0].tolist() == [20, 10, 30]
    assert read(size=5).shape == (3, 5, 5, 3)
    save(paths[1], flat("L", 77))
    assert read()[:, 0, 0, 0].tolist() == [30, 77, 20]
    before = len(list((tmp_path / "cache").iterdir()))
    monkeypatch.setattr(images, "DECODER_VERSION", images.DECODER_VERSION + 1)
    read()
    assert len(list((tmp_path / "cache").iterdir())) == before + 1


class Bomb:
    """Shows whether a pickle is ever loaded."""

    def __reduce__(self):
        return pytest.exit, ("a pickle from the cache was run",)


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def other_shape():
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 4, 4, 3), np.uint8))
    return stream.getvalue()


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-5], lambda b: b"", lambda b: pickled(), lambda b: other_shape()]
)
def test_corrupt_cache_is_discarded_and_made_anew(spoil, paths, tmp_path):
    first = read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False)
    (cached,) = (tmp_path / "cache").iterdir()
    good = cached.read_bytes()
    cached.write_bytes(spoil(good))
    assert np.array_equal(first, read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False))
    assert cached.read_bytes() == good


def test_unusable_cache_folder_costs_no_images(paths, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not cached"):
        result = read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False)
    assert len(result) == 3


def test_failed_write_leaves_no_cache(paths, tmp_path, monkeypatch):
    def broken(stream, *args, **kwargs):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", broken)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_blob_hash_is_git_s_own(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert (
        git_blob_sha1(tmp_path / "x")
        == git_blob_sha1(b"hello\n")
        == "ce013625030ba8dba906f756967f9e9ca394464a"
    )
