"""Weights: what is loaded from where, what is said about the rest, and broken files or networks, named."""

import contextlib
import http.server
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from utils import weights
from utils.weights import load_backbone_weights, read_weight_file, weight_options

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "weights"
H5 = "mobilenet_1_0_224_tf_no_top.h5"
SHAPES = {"block1_conv1": (3, 3, 3, 8), "block1_conv2": (3, 3, 8, 8), "block2_conv1": (3, 3, 8, 64)}
REAL_FILES = {"VGG16": "13 of 13", "VGG19": "8 of 16", "MobileNet": "27 of 27"}


def convolutions():
    """Three small convolutions, named as in VGG16."""
    layers = [keras.layers.Conv2D(shape[3], 3, name=name) for name, shape in SHAPES.items()]
    for layer, shape in zip(layers, SHAPES.values(), strict=True):
        layer.build((None, 8, 8, shape[2]))
    return layers


def arrays_for(*names):
    """Made-up weights of the named convolutions."""
    rng, parts = np.random.default_rng(0), (("bias", 3), ("kernel", 0))
    sizes = {f"{name}/{part}": SHAPES[name][at:] for name in names for part, at in parts}
    return {key: rng.normal(size=size).astype("float32") for key, size in sizes.items()}


WHOLE, FIRST, OTHER = arrays_for(*SHAPES), arrays_for("block1_conv1"), "block1_conv2/bias"


def load(folder, **files):
    """Write arrays as files, load them: which convolutions then are those of WHOLE, and the report."""
    for kind, arrays in files.items():
        np.savez(folder / f"vgg16_imagenet{'_partial' * (kind == 'partial')}.npz", **arrays)
    report = load_backbone_weights(layers := convolutions(), "VGG16", folder, download=False)
    names = [{f"{layer.name}/{v.name}": v for v in layer.weights} for layer in layers]
    return [all(np.array_equal(own[key], WHOLE[key]) for key in own) for own in names], report


def test_a_partial_file_leaves_the_rest_to_he_and_a_complete_one_is_preferred(tmp_path):
    partial = arrays_for("block1_conv1", "block1_conv2") | {"block9/kernel": np.zeros((1, 1))}
    found, report = load(tmp_path, partial=partial)
    assert found == [True, True, False] and not report.complete
    assert (report.share, report.initialised) == ("2 of 3", ("block2_conv1",))
    assert "vgg16_imagenet_partial.npz); He-initialised: block2_conv1" in str(report)
    found, report = load(tmp_path, whole=WHOLE)
    assert all(found) and report.complete
    assert str(report) == "VGG16: 3 of 3 convolutions pre-trained (ImageNet, vgg16_imagenet.npz)"


def test_without_any_file_all_is_he_initialised_by_the_seed(tmp_path):
    _, report = load(tmp_path)
    assert report.pretrained == () and not report.complete and "He-initialised: all" in str(report)

    def kernels(seed):
        load_backbone_weights(layers := convolutions(), "VGG16", download=False, seed=seed)
        return np.concatenate([np.ravel(layer.kernel) for layer in layers])

    assert np.array_equal(kernels(1), kernels(1)) and (kernels(1) != kernels(5)).all()


def test_he_keeps_the_scale():
    """He et al. (2015): deviation sqrt(2 / fan_in); each output of a depthwise kernel sees one channel."""
    plain, depthwise = keras.layers.Conv2D(64, 3, name="a"), keras.layers.DepthwiseConv2D(3, name="b")
    plain.build((None, 8, 8, 8)), depthwise.build((None, 8, 8, 512))
    load_backbone_weights([plain, depthwise], "MobileNet", download=False)
    assert np.std(plain.kernel) == pytest.approx(np.sqrt(2 / (3 * 3 * 8)), rel=0.03)
    assert np.std(depthwise.kernel) == pytest.approx(np.sqrt(2 / 9), rel=0.05)


@pytest.mark.shared
@pytest.mark.parametrize(("architecture", "share"), REAL_FILES.items())
def test_real_files(architecture, share):
    base = getattr(keras.applications, architecture)(include_top=False, weights=None, input_shape=(64, 64, 3))
    assert load_backbone_weights(base.layers, architecture, SHARED, download=False).share == share


@pytest.mark.parametrize("requested", ["absent", "~/nowhere", ".", "x" * 5000, "file.txt"])
def test_a_folder_without_weights_is_named(requested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path), Path("file.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"XRAY_WEIGHTS=.*Remedy"):
        weight_options(requested)


def test_weights_are_downloaded_random_or_from_a_folder_of_ones_home(tmp_path, monkeypatch):
    assert weight_options(None) == weight_options("") == {"weight_folder": None, "download": True}
    assert weight_options("none") == {"weight_folder": None, "download": False}
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "vgg16_imagenet.npz").touch()
    assert weight_options("~")["weight_folder"] == tmp_path


WRONG = [
    ("partial", {"block1_conv2/kernel": np.zeros((3, 3, 8, 9)), OTHER: np.zeros(8)}, r"8, 8\).*8, 9\)"),
    ("partial", {OTHER: np.zeros(8)}, r"block1_conv2 must have .*kernel.* has \{'block1_conv2/bias'"),
    ("partial", {"stem/kernel": np.zeros((3, 3, 3, 8))}, "not one layer of this file"),
    ("whole", FIRST, r"layer block1_conv2 must have .*, the file has \{\}"),
    ("whole", WHOLE | {OTHER: np.full(8, np.nan)}, "conv2/bias is not all finite numbers.*Remedy"),
    ("whole", WHOLE | {OTHER: np.full(8, -np.inf)}, "conv2/bias is not all finite numbers.*Remedy"),
    ("whole", WHOLE | {OTHER: np.array(["a"] * 8)}, "corrupt.*Remedy"),
    ("whole", WHOLE | {OTHER: np.array([None] * 8)}, "corrupt.*Remedy"),
]


@pytest.mark.parametrize(("kind", "arrays", "said"), WRONG)
def test_a_file_with_wrong_layers_is_refused(kind, arrays, said, tmp_path):
    with pytest.raises(ValueError, match=rf"vgg16_imagenet(_partial)?\.npz.*{said}"):
        load(tmp_path, **{kind: arrays})


def test_a_corrupt_file_is_named_and_no_flipped_bit_changes_a_value(tmp_path):
    path, values = tmp_path / "file.npz", np.arange(100, dtype="float32")
    np.savez(path, **{"a/kernel": values})
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], b"version https://git-lfs", b""):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"file\.npz is corrupt.*Remedy: fetch"):
            read_weight_file(path)
    for position in range(0, len(good), 4):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        with contextlib.suppress(ValueError):
            read = read_weight_file(path)
            assert all(np.array_equal(array, values) for array in read.values()), position


def start(script, home, *args):
    """Start a script that prints with that Keras folder."""
    command, own = [sys.executable, "-c", script, *map(str, args)], {"KERAS_HOME": str(home), "no_proxy": ""}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, text=True)


def lines(process):
    return [line.strip() for line in process.communicate(timeout=120)[0].splitlines()]


def keras_folder(folder, content):
    (folder / "models").mkdir(), (folder / "models" / H5).write_bytes(content)
    return folder


@contextlib.contextmanager
def serving(server):
    """Run a server in a thread: its port."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with server:
        yield server.server_address[1]
        server.shutdown()


UNREACHABLE = """
import os, sys, urllib.request
from utils import weights
weights.SILENCE = 1
for port in sys.argv[1:]:
    os.environ["https_proxy"] = f"http://127.0.0.1:{port}"
    urllib.request.install_opener(None)  # the one that urllib keeps has the proxy of before
    weights.UNREACHED.clear()
    for _ in range(2):
        note = weights.load_backbone_weights([], "VGG16").note
    print(note)
try:
    weights.load_backbone_weights([], "MobileNet")
except ValueError as error:
    print(error)
"""
# What is said of a server, and what a proxy answers in its stead.
FAULTS = {"timed out": b"", "TLS: [SSL": b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100)}
FAULTS["403 Forbidden"] = b"HTTP/1.1 403 Forbidden\r\n\r\n"


def test_a_server_that_cannot_be_reached_is_asked_once_and_a_broken_file_named(tmp_path):
    asked, home = [], keras_folder(tmp_path, b"half")

    def proxy(said):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                asked.append(said)
                self.request.recv(4096)
                self.request.sendall(FAULTS[said])
                self.request.recv(4096)  # until the other side gives up

        return serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))

    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(proxy(said)) for said in FAULTS]
        *notes, broken = lines(start(UNREACHABLE, home, *ports))
    assert asked == list(FAULTS)
    for note, said in zip(notes, FAULTS, strict=True):
        assert note.startswith("Keras' ImageNet weights could not be downloaded (") and said in note
    assert "Keras' own weights cannot be read" in broken and "Remedy: delete MobileNet's file" in broken


def test_threads_that_load_leave_output_and_time_limit_as_they_were(monkeypatch, tmp_path):
    def slow(**_):
        time.sleep(0.2)
        raise ConnectionError("gone")

    monkeypatch.setattr(weights, "UNREACHED", {})
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    before = sys.stdout, socket.getdefaulttimeout()
    for name in ("VGG16", "VGG19"):
        monkeypatch.setattr(keras.applications, name, slow)
    with ThreadPoolExecutor(2) as pool:
        reports = [*pool.map(partial(load_backbone_weights, []), ("VGG16", "VGG19"))]
    assert ["gone" in report.note for report in reports] == [True, True]
    assert (sys.stdout, socket.getdefaulttimeout()) == before


@pytest.fixture(scope="module")
def h5(tmp_path_factory):
    """Keras' own file of MobileNet as bytes, made of the one in ../shared; Keras checks no hash of it."""
    model = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    load_backbone_weights(model.layers, "MobileNet", SHARED, download=False)
    model.save(path := tmp_path_factory.mktemp("keras") / H5)
    return path.read_bytes()


FEATURES = """
import sys, numpy as np
from utils.models import build_multiclass, feature_model
noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype("uint8")
features = []
for folder in (None, sys.argv[1]):
    model, report = build_multiclass("MobileNet", weight_folder=folder)
    print(report)
    features.append(feature_model(model, "average_pool").predict_on_batch(noise))
print(np.ptp(features[0]) > 1, np.array_equal(*features))
"""


@pytest.mark.shared
def test_keras_own_weights_are_those_of_the_folder_to_the_bit(h5, tmp_path):
    report = "MobileNet: 27 of 27 convolutions pre-trained (ImageNet, {})".format
    said = [report("Keras' own file"), report("mobilenet_imagenet.npz"), "True True"]
    assert lines(start(FEATURES, keras_folder(tmp_path, h5), SHARED)) == said


TWICE = """
import sys, keras
from utils.models import build_multiclass
sys.modules[keras.applications.MobileNet.__module__].BASE_WEIGHT_PATH = f"http://127.0.0.1:{sys.argv[1]}/"
print(build_multiclass("MobileNet")[1].share)
"""


@pytest.mark.shared
def test_two_processes_may_download_at_once(h5, tmp_path):
    """From a server that takes two seconds, so that each process sees the other's half-written file."""
    asked = []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(h5))), self.end_headers()
            for position in range(0, len(h5), len(h5) // 20):
                self.wfile.write(h5[position : position + len(h5) // 20])
                time.sleep(0.1)

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)) as port:
        both = [start(TWICE, tmp_path, port) for _ in range(2)]
        assert [lines(process) for process in both] == [["27 of 27"]] * 2
    assert asked == [f"/{H5}"] and (tmp_path / "models" / H5).read_bytes() == h5
