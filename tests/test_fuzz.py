"""Random bytes, broken files and hostile archives: always a sound result or the module's own error.

The cases are drawn from fixed seeds (`derandomize`), so that every run of the tests tries the same ones.
"""

import io
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import download, images, runs
from utils.download import DownloadError, by_content, by_path, fetch_files
from utils.images import ImageError, git_blob_sha1, read_xray, read_xrays

EASY = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
MODES = {
    "bmp": ["1", "L", "P", "RGB"],
    "gif": ["L", "P", "RGB"],
    "jpeg": ["L", "RGB", "CMYK"],
    "png": ["1", "I;16", "L", "LA", "P", "RGB", "RGBA"],
    "tiff": ["1", "CMYK", "F", "I", "I;16", "L", "LA", "P", "RGB", "RGBA"],
    "webp": ["RGB", "RGBA"],
}
KINDS = [(suffix, mode) for suffix, modes in MODES.items() for mode in modes]


def picture(suffix, mode, width, height, seed, orientation=1):
    """A file of noise."""
    image = Image.new(mode, (width, height))
    size = len(image.tobytes())
    noise = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    if mode == "F":
        noise = np.random.default_rng(seed).normal(0, 1000, size // 4).astype(np.float32)
    image.frombytes(noise.tobytes())
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, suffix, **({} if suffix in ("bmp", "gif") else {"exif": exif}))
    return stream.getvalue()


@st.composite
def damaged(draw, whole):
    """A file with some bytes changed, a part taken out or put in, or its end cut off."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["set", "flip", "cut", "out", "in"]))
        if kind == "set":
            content[place : place + 4] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "out":
            del content[place : place + draw(st.integers(1, 30))]
        else:
            content[place:place] = draw(st.binary(max_size=10))
    return bytes(content)


sizes = st.integers(1, 24)
pictures = st.builds(
    lambda kind, *rest: picture(*kind, *rest), st.sampled_from(KINDS), sizes, sizes, st.integers(0, 9)
)


def decode(content, size=5):
    """What `read_xray` and `read_xrays` make of a file with this content: pixels, or the error's text."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.png")
        path.write_bytes(content)
        for read in (
            lambda: read_xray(path, size),
            lambda: read_xrays([path], size, n_jobs=1, progress=False)[0],
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's on broken metadata, NumPy's on NaN
                try:
                    results.append(read())
                except ImageError as error:
                    results.append(str(error))
    assert type(results[0]) is type(results[1]) and np.array_equal(*results)
    return results[0]


def is_sound(result):
    if isinstance(result, str):
        return "some.png" in result and "Remedy: " in result and "\n" not in result
    return result.shape == (5, 5, 3) and result.dtype == np.uint8


@settings(max_examples=500, **EASY)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"\xff\xd8"]),
)
@example(b"", b"")
def test_any_bytes_are_an_image_or_a_clear_error(content, magic):
    assert is_sound(decode(magic + content))


@settings(max_examples=400, **EASY)
@given(st.sampled_from(KINDS), sizes, sizes, st.integers(0, 99), st.integers(0, 9))
def test_any_whole_image_is_read(kind, width, height, seed, orientation):
    assert not isinstance(decode(picture(*kind, width, height, seed, orientation)), str)


@settings(max_examples=1200, **EASY)
@given(damaged(pictures))
def test_a_damaged_image_is_an_image_or_a_clear_error(content):
    assert is_sound(decode(content))


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


CACHED = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


@settings(max_examples=500, **EASY)
@given(damaged(st.just(npy(CACHED))) | st.binary(max_size=100))
@example(b"PK\x03\x04 half an .npz")
def test_a_damaged_cache_is_made_anew_or_has_its_shape(content):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's on old headers
        Path(folder, "x.npy").write_bytes(content)
        found = images._load_cache(Path(folder, "x.npy"), CACHED.shape)
    assert found is None or (found.shape == CACHED.shape and found.dtype == np.uint8)


RUN = runs.Run({"loss": [1.0, 0.5]}, 2.0, [np.ones((2, 3)), np.zeros(4)], [np.ones(2)], [np.ones(3)])


@settings(max_examples=500, **EASY)
@given(st.data())
@example(None)
def test_a_damaged_run_is_trained_anew_or_whole(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run-0.npz")
        runs.save_run(path, RUN)
        broken = npy(CACHED) if data is None else data.draw(damaged(st.just(path.read_bytes())))
        path.write_bytes(broken)
        found = runs.load_run(path)
    assert found is None or repr(found) == repr(RUN)


# Archives

FILES = {"two/train/covid/a.png": b"first image", "two/test/normal/b.jpeg": b"second image" * 20}
MANIFEST = {path: git_blob_sha1(content) for path, content in FILES.items()}
parts = st.sampled_from(["..", ".", "", "a", "~", "C:", "\\", "..\\x", "\0", "é", "two", "a.png", *FILES])
names = st.lists(parts, min_size=1, max_size=5).map("/".join).filter(bool)
attributes = st.sampled_from(
    [0, 0o120777 << 16, 0o040755 << 16, 0o020666 << 16]
)  # a link, a folder, a device
methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])


@st.composite
def archives(draw, hostile=names):
    """A zip that holds the wanted files (perhaps not all, perhaps changed) among others of any name."""
    kept = draw(st.lists(st.sampled_from(list(FILES)), unique=True, min_size=1))
    members = [(f"top/{path}", FILES[path] if draw(st.integers(0, 4)) else b"other") for path in kept]
    members += draw(st.lists(st.tuples(hostile, st.sampled_from([b"evil", *FILES.values()])), max_size=3))
    stream, method = io.BytesIO(), draw(methods)
    with zipfile.ZipFile(stream, "w", method) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's on names that come twice
        for name, content in draw(st.permutations(members)):
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, draw(attributes), method
            zipped.writestr(info, content)
    return stream.getvalue()


def unpack(content, pick):
    """Plant an archive, fetch it, and look at all that is on the disk afterwards; True if it was taken."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        inner = Path(folder, "one", "two")
        patch.setattr(download, "_fetch", lambda url, file, progress: file.write_bytes(content))
        try:
            fetch_files(inner / "challenge", MANIFEST, ["u"], "It", "wait.", pick, progress=False)
            taken = True
        except DownloadError as error:
            taken = False
            assert str(error).startswith("It could not be downloaded:\n  - u: ") and "Remedy: " in str(error)
            assert folder not in str(error)
        there = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if not p.is_dir()}
        assert not any(path.is_symlink() for path in there.values())
        written = {name: path.read_bytes() for name, path in there.items()}
    expected = {f"one/two/challenge/{path}": content for path, content in FILES.items()} if taken else {}
    assert written == expected  # all of it, or nothing; and nothing anywhere else
    return taken


@settings(max_examples=600, **EASY)
@given(archives(), st.sampled_from([by_path, by_content]))
def test_an_archive_of_any_names_gives_the_wanted_files_or_nothing(content, pick):
    unpack(content, pick)


@settings(max_examples=600, **EASY)
@given(damaged(archives(hostile=st.just("x"))), st.sampled_from([by_path, by_content]))
def test_a_damaged_archive_gives_the_wanted_files_or_nothing(content, pick):
    unpack(content, pick)


@settings(max_examples=200, **EASY)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_archive_and_leave_nothing(content):
    assert not unpack(content, by_path)


@pytest.mark.parametrize("pick", [by_path, by_content])
def test_the_planted_archive_is_taken_where_nothing_is_wrong_with_it(pick):
    """So that the tests above cannot pass because everything is refused."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for path, content in FILES.items():
            zipped.writestr(f"top/{path}", content)
    assert unpack(stream.getvalue(), pick)
