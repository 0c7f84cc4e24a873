"""Bad input and faults that no other test file tries; FAULTS.md lists them all, with what happens."""

import ast
import builtins
import errno
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image, PngImagePlugin

import execute
from utils import download, images, sources
from utils.data import load_images, validation_split
from utils.download import DownloadError, by_content, by_path, fetch_challenge, fetch_files
from utils.external import load_external
from utils.images import ImageError, git_blob_sha1, read_xray, read_xrays
from utils.sources import DataError, Source, find_source

ROOT = Path(__file__).resolve().parents[1]
GREY = Image.new("L", (8, 8), 90)


@pytest.fixture
def root(tmp_path):
    """Task 1's training folder with three images a class."""
    for name in ("covid", "normal"):
        (tmp_path / "xrays/two/train" / name).mkdir(parents=True)
        for number in range(3):
            GREY.save(tmp_path / "xrays/two/train" / name / f"person{number}_{name}.png")
    (tmp_path / "xrays/all").mkdir()
    return tmp_path / "xrays"


def load(root, cache=None):
    return load_images(Source(root, "folder"), "two", "train", 4, cache, progress=False)


@pytest.fixture
def deny(monkeypatch):
    """Refuse a file or folder, as its permissions would if the tests did not run as root."""

    def refuse(denied):
        def guard(function):
            def guarded(path, *args, **kwargs):
                if isinstance(path, (str, os.PathLike)) and Path(path) == denied:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return function(path, *args, **kwargs)

            return guarded

        for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "scandir")):
            monkeypatch.setattr(module, name, guard(getattr(module, name)))

    return refuse


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_, **__):
    raise KeyboardInterrupt


# One file


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows):
    """A PNG of any header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 30), (1, 20_000)])
def test_extreme_sizes_are_read(size, tmp_path):
    Image.new("L", size, 90).save(tmp_path / "x.png")
    pixels = read_xray(tmp_path / "x.png", 5)
    assert pixels.shape == (5, 5, 3) and (pixels == 90).all()


def test_a_small_file_of_400_million_pixels_is_refused(tmp_path):
    (tmp_path / "bomb.png").write_bytes(content := png(20_000, 20_000, 1, 0, bytes(20_000 * 2501)))
    assert len(content) < 100_000
    with pytest.raises(ImageError, match=r"bomb\.png has far too many pixels.*Remedy"):
        read_xray(tmp_path / "bomb.png")


def test_a_text_that_unpacks_to_megabytes_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 2**21, zip=True)
    GREY.save(tmp_path / "text.png", pnginfo=info)
    with pytest.raises(ImageError, match=r"text\.png cannot be decoded: Decompressed data too large.*Remedy"):
        read_xray(tmp_path / "text.png")


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size, tmp_path):
    (tmp_path / "x.png").write_bytes(png(*size, 8, 0, b""))
    with pytest.raises(ImageError, match=r"x\.png .*Remedy"):
        read_xray(tmp_path / "x.png")


def test_16_bit_colour_is_brought_to_8_bit(tmp_path):
    row = np.array([51400, 25700, 0] * 4, ">u2").tobytes()
    (tmp_path / "x.png").write_bytes(png(4, 4, 16, 2, (b"\0" + row) * 4))
    assert (read_xray(tmp_path / "x.png", 4) == (200, 100, 0)).all()


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert np.abs(read_xray(tmp_path / "x.jpg", 4).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_every_animation_and_every_stack_gives_its_first_frame(suffix, tmp_path):
    frames = [Image.new("L", (8, 8), grey) for grey in (10, 240)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert (read_xray(tmp_path / f"x.{suffix}", 4) == 10).all()


# As in the standard's table: what to do to the stored pixels.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_all_eight_exif_orientations(orientation, suffix, tmp_path):
    stored = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif)
    assert np.array_equal(read_xray(tmp_path / f"x.{suffix}", 4)[:, :, 0], UPRIGHT[orientation](stored))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\2"])
def test_an_exif_block_that_is_broken_costs_no_pixels(exif, tmp_path):
    GREY.save(tmp_path / "x.jpg", exif=b"Exif\0\0" + exif)
    assert (read_xray(tmp_path / "x.jpg", 4) == 90).all()


def test_a_wrong_suffix_does_no_harm(tmp_path):
    GREY.save(tmp_path / "x.jpg", "PNG")
    assert (read_xray(tmp_path / "x.jpg", 4) == 90).all()


def test_no_other_decoder_is_let_near_a_file(tmp_path, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, a program, whatever the file's name."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match=r"x\.png is no image .*Remedy"):
        read_xray(tmp_path / "x.png")
    assert started == []


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_without_permission_is_named(cached, root, tmp_path, deny):
    path = root / "two/train/covid/person1_covid.png"
    deny(path)
    for read in (
        lambda: read_xray(path),
        lambda: read_xrays([path], 4, cache_dir=tmp_path / "cache" if cached else None, progress=False),
        lambda: load(root),
    ):
        with pytest.raises(ImageError, match=r"person1_covid\.png .*Permission denied.*Remedy: make it read"):
            read()


def test_a_file_without_permission_is_named_in_the_external_set(root, tmp_path, deny):
    path = root / "two/train/normal/person0_normal.png"
    deny(path)
    with pytest.raises(ImageError, match=r"person0_normal\.png cannot be read: Permission denied.*Remedy"):
        load_external(str(root / "two/train"), 4, tmp_path, progress=False)


def test_a_file_that_vanishes_after_it_was_listed_is_named(root, monkeypatch):
    path = root / "two/train/normal/person2_normal.png"

    def vanish(file):
        path.unlink(missing_ok=True)
        return git_blob_sha1(file)

    monkeypatch.setattr("utils.data.git_blob_sha1", vanish)
    with pytest.raises(ImageError, match=r"person2_normal\.png cannot be read: No such file.*Remedy"):
        load(root)


@pytest.mark.parametrize("name", ["Röntgen Thorax.png", "胸部.png", "رئة.png", 'a b\'s "c".png', "🫁.png"])
def test_names_beyond_ascii_are_kept(name, root, tmp_path):
    (root / "two/train/covid/person1_covid.png").rename(root / "two/train/covid" / name)
    for _ in range(2):  # also from the cache
        loaded = load(root, tmp_path / "cache")
        assert f"two/train/covid/{name}" in loaded.files and Path(name).stem in loaded.patients
    (root / "two/train/covid" / name).write_bytes(b"broken")
    with pytest.raises(ImageError, match=re.escape(name)):
        load(root)


# Folders


@pytest.mark.parametrize(
    ("target", "cause"), [("link.png", "symbolic links"), ("nowhere", "No such file"), ("..", "directory")]
)
def test_a_link_that_leads_to_no_file_is_named_and_not_passed_over(target, cause, root):
    (root / "two/train/covid/link.png").symlink_to(target)
    with pytest.raises(ImageError, match=rf"link\.png cannot be read: .*{cause}.*Remedy"):
        load(root)


def test_links_of_folders_that_go_in_circles_end(root):
    folder = root / "two/train"
    (folder / "covid/up").symlink_to("..")  # a folder within a class: no image
    assert len(load(root)) == 6
    for file in (folder / "normal").iterdir():
        file.unlink()
    (folder / "normal").rmdir()
    (folder / "normal").symlink_to("normal")
    with pytest.raises(DataError, match=r"normal is missing or holds no image.*Remedy"):
        load(root)


def test_a_folder_named_like_an_image_is_left_out(root):
    (root / "two/train/covid/folder.png").mkdir()
    assert len(load(root)) == 6


@pytest.mark.parametrize("folder", ["two/train", "two/train/normal"])
def test_a_folder_without_permission_is_named(folder, root, tmp_path, deny):
    deny(root / folder)
    for read in (lambda: load(root), lambda: load_external(str(root / "two/train"), 4, tmp_path)):
        with pytest.raises(DataError, match=rf"{folder}: Permission denied.*Remedy: make it readable"):
            read()


def test_one_image_of_a_class_is_loaded_but_not_split(root):
    for name in ("person1_covid.png", "person2_covid.png"):
        (root / "two/train/covid" / name).unlink()
    loaded = load(root)
    assert loaded.counts() == {"covid": 1, "normal": 3}
    with pytest.raises(DataError, match="Class covid has 1 patients, too few for 5 parts.*Remedy"):
        validation_split(loaded)


@pytest.mark.parametrize("wish", ["~no-such-user/xrays", "x" * 5000, "a/\N{LUNGS}"])
def test_a_wish_that_can_be_no_folder_is_named(wish, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"XRAY_DATA=.*is no folder.*Remedy"):
        find_source(wish, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"XRAY_EXTERNAL=.*is no folder.*Remedy"):
        load_external(wish, 4, tmp_path)


# Network: a server on this machine that can stall, and archives that never came from a server

FILES = {"two/train/covid/a.png": b"first", "two/test/normal/b.jpeg": b"second"}
MANIFEST = {path: git_blob_sha1(content) for path, content in FILES.items()}


def archive(files, *extra, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as zipped:
        for path, content in {**files, **dict(extra)}.items():
            zipped.writestr(path, content)
    return stream.getvalue()


def below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def serve():
    """Start a server that answers with pieces, calling `between` after each; returns its address."""
    running = []

    def start(pieces, between, headers=()):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        between()
                except OSError:  # the other side has gone
                    pass

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/x.zip"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_slow_server_is_waited_for_as_long_as_it_sends(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 1))
    content = archive(FILES)
    pieces = [content[k : k + 20] for k in range(0, len(content), 20)]
    url = serve(pieces, lambda: time.sleep(0.01))
    assert below(fetch_challenge(tmp_path, MANIFEST, [url], progress=False)) == FILES


def test_a_server_that_stalls_in_the_middle_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
    release = threading.Event()
    url = serve([archive(FILES)[:50], b""], lambda: release.wait(5), [("Content-Length", "500")])
    with pytest.raises(DownloadError, match="connection, or it was lost"):
        fetch_challenge(tmp_path, MANIFEST, [url], progress=False)
    release.set()
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_end_is_cut_off(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE", 2**20)
    url = serve((bytes(2**16) for _ in iter(int, 1)), lambda: None)
    with pytest.raises(DownloadError, match="sends more than 1048576 bytes"):
        fetch_challenge(tmp_path, MANIFEST, [url], progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def plant(monkeypatch):
    """Put bytes in the place of every download."""

    def put(content):
        monkeypatch.setattr(download, "_fetch", lambda url, file, progress: file.write_bytes(content))

    return put


def fetch(folder, pick=by_path):
    urls = ["https://one.example/x.zip"]
    return fetch_files(folder / "challenge", MANIFEST, urls, "It", "wait.", pick, progress=False)


@pytest.mark.parametrize("pick", [by_path, by_content])
def test_an_archive_of_many_small_bombs_is_refused_before_it_is_read(pick, plant, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE", 10**6)
    plant(archive(FILES, *((f"{k}.png", bytes(10**5)) for k in range(20))))
    monkeypatch.setattr(download, "_read", None)
    with pytest.raises(DownloadError, match="would unpack to 2000011 bytes, more than 1000000"):
        fetch(tmp_path, pick)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("pick", [by_path, by_content])
def test_a_member_whose_data_is_broken_is_a_reason(pick, method, plant, tmp_path):
    content = bytearray(archive({path: bytes(range(256)) for path in FILES}, method=method))
    start = content.index(b"a.png") + 5
    content[start : start + 30] = bytes(30)
    plant(bytes(content))
    with pytest.raises(DownloadError, match=r"It could not be downloaded:\n  - .+: .+\nRemedy: .* wait\."):
        fetch(tmp_path, pick)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("offset", "bits", "word"), [(6, 0x01, "encrypted"), (8, 0x60, "method")])
def test_a_member_that_cannot_be_unpacked_is_a_reason(offset, bits, word, plant, tmp_path):
    content = bytearray(archive(FILES))
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        content[content.index(signature) + offset + shift] |= bits
    plant(bytes(content))
    with pytest.raises(DownloadError, match=word):
        fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


# A full disk, an interrupted and a killed process


@pytest.mark.parametrize("where", ["archive", "unpacking", "moving"])
def test_a_full_disk_during_the_download_is_a_reason_and_leaves_nothing(where, plant, tmp_path, monkeypatch):
    plant(archive(FILES))
    with monkeypatch.context() as patch:
        if where == "archive":
            patch.setattr(download, "_fetch", lambda url, file, _: file.write_bytes(b"half") and no_space())
        elif where == "unpacking":
            write, written = Path.write_bytes, []

            def second_fails(path, content):
                if path.suffix != ".zip" and (written.append(path) or len(written) == 2):
                    no_space()
                return write(path, content)

            patch.setattr(Path, "write_bytes", second_fails)
        else:
            patch.setattr(os, "rename", no_space)
            patch.setattr(os, "replace", no_space)
        with pytest.raises(DownloadError, match="No space left on device\nRemedy") as caught:
            fetch(tmp_path)
        assert str(tmp_path) not in str(caught.value)
    assert below(tmp_path) == {}
    assert below(fetch(tmp_path)) == FILES


def test_a_full_disk_for_the_phantoms_names_folder_reason_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "write_phantoms", no_space)
    with pytest.raises(DataError, match=r"switched off(.|\n)*phantoms: No space left.*Remedy.*XRAY_CACHE"):
        find_source(None, tmp_path, local=tmp_path / "none", download=False)


@pytest.mark.parametrize("call", ["os.replace", "tempfile.mkstemp", "numpy.save"])
def test_a_full_disk_costs_the_cache_and_no_image(call, root, tmp_path, monkeypatch):
    monkeypatch.setattr(call, no_space)
    with pytest.warns(UserWarning, match="not cached: .*No space left on device"):
        assert (load(root, tmp_path / "cache").images == 90).all()
    assert below(tmp_path / "cache") == {}


def test_an_interrupted_decoding_or_caching_leaves_no_cache(root, tmp_path, monkeypatch):
    for module, name in ((images, "_decode"), (np, "save"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                load(root, tmp_path / "cache")
        assert not (tmp_path / "cache").exists() or below(tmp_path / "cache") == {}
    assert (load(root, tmp_path / "cache").images == 90).all()


@pytest.mark.parametrize("fault", [no_space, interrupt])
def test_an_executed_notebook_is_replaced_by_a_whole_one_or_not_at_all(fault, tmp_path, monkeypatch):
    (tmp_path / "x.ipynb").write_text("the last run's")
    monkeypatch.setattr(os, "replace", fault)
    with pytest.raises((OSError, KeyboardInterrupt)):
        execute.write(new_notebook(cells=[new_code_cell("1")]), "x", tmp_path)
    assert (tmp_path / "x.ipynb").read_text() == "the last run's" and not (tmp_path / "x.html").exists()


KILLED = """
import os, sys, zipfile
from pathlib import Path
from PIL import Image
from utils import download, images
folder, what, call = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
setattr(os, call, lambda *_: os._exit(9))  # as kill -9: no `finally` runs, nothing is cleaned up
if what == "cache":
    images.read_xrays([folder / "x.png"], 4, cache_dir=folder / "cache", progress=False)
else:
    download._fetch = lambda url, file, progress: file.write_bytes((folder / "x.zip").read_bytes())
    manifest = {"two/train/covid/a.png": images.git_blob_sha1(b"first")}
    download.fetch_challenge(folder / "cache", manifest, ["x"], progress=False)
"""


@pytest.mark.parametrize(("what", "call"), [("cache", "replace"), ("download", "rename")])
def test_what_a_killed_process_leaves_is_not_taken_for_whole(what, call, plant, tmp_path):
    GREY.save(tmp_path / "x.png")
    (tmp_path / "x.zip").write_bytes(archive(FILES))
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, what, call], cwd=ROOT, env=os.environ)
    assert killed.returncode == 9
    left = set(below(tmp_path / "cache"))
    assert left and not (tmp_path / "cache/challenge").exists()  # left under a name that is never read
    if what == "cache":
        paths = [tmp_path / "x.png"]
        assert (read_xrays(paths, 4, cache_dir=tmp_path / "cache", progress=False) == 90).all()
        assert len(set(below(tmp_path / "cache")) - left) == 1
    else:
        plant(archive(FILES))
        assert below(fetch(tmp_path / "cache")) == FILES


# Pickles


class Bomb:
    """Shows whether a pickle is ever loaded."""

    def __reduce__(self):
        return pytest.exit, ("a pickle was run",)


def pickles():
    """A bare pickle, and one in each of NumPy's two formats."""
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.array([Bomb()], object), allow_pickle=True)
    np.savez(npz, record=np.array([Bomb()], object), state0000=np.ones(3))
    return {"bare": pickle.dumps(Bomb()), "npy": npy.getvalue(), "npz": npz.getvalue()}


@pytest.mark.parametrize("kind", ["bare", "npy", "npz"])
def test_a_pickle_is_refused_where_arrays_are_read(kind, root, tmp_path):
    load(root, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(pickles()[kind])
    assert (load(root, tmp_path / "cache").images == 90).all()


def test_no_code_of_ours_can_load_a_pickle():
    calls = []
    for path in [*ROOT.glob("utils/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert modules.isdisjoint({"pickle", "dill", "cloudpickle", "shelve", "marshal"}), path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("joblib.load", "pd.read_pickle", "eval", "exec"), path
                if called in ("np.load", "np.save"):
                    calls.append(called)
                    assert "allow_pickle=False" in ast.unparse(node), path
    assert calls
