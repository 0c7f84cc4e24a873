"""One file becomes the pixels that it means, or an error that helps; a write is whole or did not happen."""

import io
import struct
import tempfile
import threading
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import files
from utils.files import ImageError, git_blob_sha1, read_xray, read_xrays, writing


def flat(mode, colour, size=(12, 8)):
    return Image.new(mode, size, colour)


def saved(image, suffix="png", **options):
    """The content of a file."""
    Image.init()
    image.save(stream := io.BytesIO(), Image.EXTENSION[f".{suffix}"], **options)
    return stream.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels, colour=0, depth=16, extra=b"", size=None):
    """A PNG of any header from stored values [height, width] or [height, width, channels]."""
    stored = np.asarray(pixels, ">u2" if depth == 16 else "u1")
    height, width = size or stored.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in stored)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + rows + chunk(b"IEND", b"")


def tiff(data, width, height, bits, photometric=1, sample_format=None):
    """A little-endian grey TIFF by the standard's table: of bytes, or of three rows of a type's values."""
    data = data if isinstance(data, bytes) else np.array([data[1:]] * 3, data[0]).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    tags = [struct.pack("<HHII", number, kind, 1, value) for number, kind, value in tags if value is not None]
    start, count = b"II*\0" + struct.pack("<I", 8 + len(data)), struct.pack("<H", len(tags))
    return start + data + count + b"".join(tags) + bytes(4)


(PALETTE := flat("P", 1)).putpalette([0, 0, 0, 200, 30, 60])
SBIT = chunk(b"sBIT", b"\x0c")
# What each file shows: the grey levels of a row, or one colour.
MEANT = {
    "L": (saved(flat("L", 100)), [100]),
    "LA half": (saved(flat("LA", (100, 128))), [50]),
    "1": (saved(flat("1", 1)), [255]),
    "P": (saved(PALETTE), (200, 30, 60)),
    "P half transparent": (saved(PALETTE, transparency=bytes([255, 128])), (100, 15, 30)),
    "RGB": (saved(flat("RGB", (10, 20, 30))), (10, 20, 30)),
    "RGBA opaque": (saved(flat("RGBA", (10, 20, 30, 255))), (10, 20, 30)),
    "RGBA half": (saved(flat("RGBA", (100, 200, 50, 128))), (50, 100, 25)),
    "CMYK": (saved(flat("CMYK", (0, 255, 255, 0)), "tif"), (255, 0, 0)),
    "CMYK jpeg": (saved(flat("CMYK", (0, 255, 255, 0)), "jpg", quality=95), (254, 0, 0)),
    "YCbCr jpeg": (saved(flat("YCbCr", (100, 128, 128)), "jpg"), [100]),
    "first frame": (saved(flat("L", 10), "gif", save_all=True, append_images=[flat("L", 240)]), [10]),
    "very wide": (saved(flat("L", 90, (20_000, 30))), [90]),
    "16-bit png": (png([[0, 25700, 51400]] * 3), [0, 100, 200]),
    "16-bit png, 12 of them used": (png([[0, 25708, 65520]] * 3, extra=SBIT), [0, 100, 255]),
    "16-bit colour": (png([[(51400, 25700, 0)] * 3] * 3, colour=2), (200, 100, 0)),
    "8-bit tiff": (tiff(("u1", 0, 100, 255), 3, 3, 8), [0, 100, 255]),
    "16-bit tiff": (tiff(("<u2", 0, 25700, 65535), 3, 3, 16), [0, 100, 255]),
    "12-bit tiff": (tiff(bytes([0x00, 0x06, 0x46, 0xFF, 0xF0, 0x00]) * 3, 4, 3, 12), [0, 100, 255, 0]),
    "white is 0, 1 bit": (tiff(b"\x50" * 3, 4, 3, 1, 0), [255, 0, 255, 0]),
    "white is 0, 4 bits": (tiff(b"\x0f\xf0" * 3, 4, 3, 4, 0), [255, 0, 0, 255]),
    "white is 0, 8 bits": (tiff(("u1", 0, 155, 255), 3, 3, 8, 0), [255, 100, 0]),
    "white is 0, 16 bits": (tiff(("<u2", 0, 39835, 65535), 3, 3, 16, 0), [255, 100, 0]),
}


@pytest.mark.parametrize("case", MEANT)
def test_a_file_gives_the_greys_that_it_means(case, tmp_path):
    content, expected = MEANT[case]
    (tmp_path / "x").write_bytes(content)
    row = np.reshape(expected, (-1, 1) if isinstance(expected, list) else (1, 3))
    pixels = read_xray(tmp_path / "x", width := len(row) if len(row) > 1 else 3)
    assert pixels.shape == (width, width, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - row).max() <= 1


def noise(shape, top, seed=0, label=0):
    """Values below `top`, and a white label in one corner."""
    pixels = np.random.default_rng(seed).integers(0, top, shape)
    pixels[:label][..., :label] = 65535
    return pixels


JPEG = saved(Image.fromarray(noise((64, 64), 256).astype(np.uint8)), "jpg")
UNCLEAR = {
    "12 bits in 16": (png(noise((9, 9), 4096)), "less than a quarter of its 16-bit range"),
    "14 bits in 16": (png(noise((9, 9), 16384)), "less than a quarter"),
    "12 bits in 16 with a white label": (png(noise((40, 40), 4096, label=8)), "less than a quarter"),
    "12 bits in 16, tiff": (tiff(("<u2", 0, 9, 4095), 3, 3, 16), "less than a quarter"),
    "12 bits in 16, white is 0": (tiff(("<u2", 0, 9, 4095), 3, 3, 16, 0), "less than a quarter"),
    "12 bits in 16, colour": (png(noise((9, 9, 3), 4096), colour=2), "less than a quarter"),
    "signed 8 bits": (tiff(("i1", -9, 0, 9), 3, 3, 8, 1, 2), "signed"),
    "signed 16 bits": (tiff(("<i2", -900, 0, 900), 3, 3, 16, 1, 2), "signed"),
    "32 bits": (tiff(("<u4", 0, 40000, 80000), 3, 3, 32), "32 bits"),
    "32 bits below 256": (saved(flat("I", 100), "tif"), "32 bits"),
    "float with NaN": (tiff(("<f4", 0, 0.5, np.nan), 3, 3, 32, 0, 3), "32 bits"),
    "no polarity": (tiff(("u1", 0, 100, 255), 3, 3, 8, None), "whether 0 is black"),
    "nothing but transparency": (saved(flat("RGBA", (100, 200, 50, 0))), "transparent everywhere"),
    "DICOM": (bytes(128) + b"DICM" + bytes(99), "DICOM and JPEG 2000"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "DICOM and JPEG 2000"),
    "12-bit JPEG": (JPEG.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "is no BMP"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is no BMP"),
    "nothing": (b"", "is empty"),
    "half a JPEG": (JPEG[:1500], "truncated"),
    "90 million pixels": (png([[0]], depth=1, size=(9_000, 10_000)), "far too many pixels"),
    "no pixels": (png([[0]], depth=8, size=(0, 5)), ""),
    "no file": (None, "No such file"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused_with_file_cause_and_remedy(case, tmp_path):
    content, cause = UNCLEAR[case]
    path = tmp_path / "röntgen 1.png"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: read_xray(path), lambda: read_xrays([path] * 3, progress=False)):
        with pytest.raises(ImageError, match=r"röntgen 1\.png .*Remedy: .*export .* as 8-bit PNG") as caught:
            read()
        assert cause.lower() in str(caught.value).lower()


# By the standard's table: the order of the stored rows and columns; from the fifth on transposed as well.
ORIENTATIONS = [(1, 1), (1, -1), (-1, -1), (-1, 1), (1, 1), (-1, 1), (-1, -1), (1, -1)]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_all_eight_exif_orientations(number, suffix, tmp_path):
    stored, (rows, columns) = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4), ORIENTATIONS[number]
    (exif := Image.Exif())[0x0112] = number + 1
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif)
    upright = stored[::rows, ::columns] if number < 4 else stored[::rows, ::columns].T
    assert np.array_equal(read_xray(tmp_path / f"x.{suffix}", 4)[:, :, 0], upright)


def test_shrinking_does_not_alias(tmp_path):
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (512, 256))).save(tmp_path / "x.png")
    assert np.abs(read_xray(tmp_path / "x.png", 100)[:, 2:-2].astype(int) - 127).max() < 20


def test_many_files_keep_their_order_and_the_bar_is_on_stdout(tmp_path, capsys):
    for path in (paths := [tmp_path / f"{grey}.png" for grey in (30, 10, 20)]):
        flat("L", int(path.stem)).save(path)
    assert read_xrays(paths, 4, progress=False)[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert capsys.readouterr() == ("", "") and read_xrays([], 4, progress=False).shape == (0, 4, 4, 3)
    read_xrays(paths, 4)
    out, err = capsys.readouterr()
    assert "0/3" in out and not err


@pytest.mark.shared
def test_the_challenge_s_images_are_what_pillow_plainly_decodes():
    root = Path(__file__).resolve().parents[2] / "shared/data/all"
    paths = [*root.rglob("*.png"), *sorted(root.rglob("*.jp*g"))[::9]]
    for path, pixels in zip(paths, read_xrays(paths, 64, progress=False), strict=True):
        with Image.open(path) as image:  # all are L, RGB or opaque RGBA, and upright
            plain = image.convert("L" if image.mode == "L" else "RGB")
        plain = plain.resize((64, 64), Image.Resampling.BILINEAR).convert("RGB")
        assert np.array_equal(pixels, plain), path


def test_the_blob_hash_is_git_s_own(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    for same in (tmp_path / "x", b"hello\n"):
        assert git_blob_sha1(same) == "ce013625030ba8dba906f756967f9e9ca394464a"
    for bad in (tmp_path / "none", "a\0b"):
        with pytest.raises(ImageError, match="cannot be read.*Remedy"):
            git_blob_sha1(bad)


def test_listing_takes_what_pillow_reads_and_leaves_out_what_systems_put_there(tmp_path):
    images = ["a.BMP", "b.gif", "c.jfif", "d.jpe", "e.JPEG", "f.jpg", "g.apng", "h.tiff", "i.webp", "j.png"]
    hidden = ["desktop.ini", "Thumbs.db", ".hidden.png", "._f.jpg", ".checkpoints/f.jpg", "__MACOSX/f.jpg"]
    for name in [*images, *hidden, "k.dcm", "l.jp2"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "m.png").symlink_to("nowhere")
    assert files.list_files(tmp_path, "**/*", files.SUFFIXES) == [*images, "m.png"]
    assert files.list_files(tmp_path, "**/*") == [*images, "k.dcm", "l.jp2", "m.png"]


@st.composite
def damaged(draw):
    """A small picture of noise with some bytes changed, taken out or put in, or its end cut off."""
    kinds = ["png I;16", "png RGBA", "tif L", "tif F", "tif I;16", "jpg L", "gif P", "webp RGB", "bmp RGB"]
    suffix, mode = draw(st.sampled_from(kinds)).split()
    image = Image.new(mode, (9, 7))
    image.frombytes(noise(len(image.tobytes()), 256, draw(st.integers(0, 9))).astype(np.uint8).tobytes())
    content = bytearray(saved(image, suffix))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.sampled_from([0, 1, 4, 30, 10**6]))] = draw(st.binary(max_size=9))
    return bytes(content)


@settings(max_examples=400, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)
@given(damaged() | st.binary(max_size=99).map(lambda noise: b"II*\0" + noise))
@example(b"\xff\xd8")
def test_a_damaged_image_is_an_image_or_a_clear_error(content):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on broken metadata
        Path(folder, "some.png").write_bytes(content)
        try:
            assert read_xray(Path(folder, "some.png"), 5).shape == (5, 5, 3)
        except ImageError as error:
            assert "some.png" in str(error) and "Remedy: " in str(error) and "\n" not in str(error)


def below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def zipped(members):
    with zipfile.ZipFile(stream := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
    return stream.getvalue()


@pytest.fixture
def server():
    """Server on this machine: `pages` maps a path to the pieces of its body; None waits to the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in server.pages:
                return self.send_error(404)
            if self.path == "/silent":
                server.ended.wait(9)
            self.send_response(200)
            if self.path == "/cut":
                self.send_header("Content-Length", "9999")
            self.end_headers()
            for piece in server.pages[self.path]:
                server.ended.wait(9) if piece is None else self.wfile.write(piece)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.pages, server.ended, server.handle_error = {}, threading.Event(), lambda *_: None
        server.address = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_is_whole_or_leaves_what_was_there(error, tmp_path):
    for content in (b"old", b"new"):
        with writing(tmp_path / "inner/x") as draft:
            draft.write_bytes(content)
    with pytest.raises(error), writing(tmp_path / "inner/x") as draft:
        draft.write_bytes(b"half")
        raise error
    assert below(tmp_path) == {"inner/x": b"new"} and len(list((tmp_path / "inner").iterdir())) == 1


def test_two_that_write_the_same_folder_at_once_both_end_well(tmp_path):
    barrier = threading.Barrier(2)

    def write(content):
        with writing(tmp_path / "set") as draft:
            (draft / "a").mkdir(parents=True)
            (draft / "a" / content).write_text(content)
            barrier.wait(60)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(write, ["x", "y"])) == [None, None]
    assert below(tmp_path) == {"set/a/x": b"x", "set/a/y": b"y"} and len(list(tmp_path.iterdir())) == 1
