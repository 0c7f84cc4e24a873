"""ImageNet weights of a backbone: from `.npz` files, else Keras, else He's. Imports session of ours."""

import contextlib
import io
import os
import socket
import threading
from collections import namedtuple
from http.client import HTTPException
from pathlib import Path

import keras
import numpy as np

from .session import user_path

SILENCE = 30  # seconds without a byte from Keras' server, after which it is given up
UNREACHED = {}  # architecture -> why its download failed: each is tried once a process
ONE = threading.Lock()  # one thread at a time, for stdout and the time limit are the whole process's


class WeightReport(namedtuple("WeightReport", "architecture source pretrained initialised note")):
    """Which convolutions of a backbone are pre-trained, from where, and why nothing better was used."""

    complete = property(lambda self: not self.initialised)
    share = property(lambda self: f"{len(self.pretrained)} of {len(self.pretrained + self.initialised)}")

    def __str__(self):
        text = f"{self.architecture}: {self.share} convolutions pre-trained ({self.source})"
        rest = f"; He-initialised: {', '.join(self.initialised) if self.pretrained else 'all'}"
        return text + rest * bool(self.initialised) + f".\n{self.note}" * bool(self.note)


def weight_options(requested):
    """Builders' arguments: by default Keras downloads; "none" is random; else a folder of `.npz` files."""
    folder = user_path(requested) if requested and requested != "none" else None
    if folder and not (os.path.isdir(folder) and any(folder.glob("*_imagenet*.npz"))):
        remedy = "name the folder of the .npz files, or 'none' for random weights, or unset it."
        raise FileNotFoundError(f"XRAY_WEIGHTS={requested} holds no weights. Remedy: {remedy}")
    return {"weight_folder": folder, "download": requested != "none"}


def load_backbone_weights(layers, architecture, folder=None, download=True, seed=0):
    """Load a backbone's layers: `<architecture>_imagenet.npz` of `folder` (lower case), which must hold all,
    else `…_imagenet_partial.npz`, else Keras' download. WeightReport, or ValueError, which names the file."""
    arrays, source, note, pretrained, initialised = {}, "no pre-trained weights", "", [], []
    files = [Path(folder or "", f"{architecture.lower()}_imagenet{kind}.npz") for kind in ("", "_partial")]
    if path := next((path for path in files if folder and path.is_file()), None):
        arrays, source = read_weight_file(path), f"ImageNet, {path.name}"
    elif download:
        arrays, source, note = _from_keras(architecture)
    for index, layer in enumerate(layers):
        expected = {_key(layer, variable): tuple(variable.shape) for variable in layer.weights}
        found = {key: arrays[key].shape for key in expected if key in arrays}
        if found != expected and (found or (arrays and path != files[1])):
            raise ValueError(f"{source}: layer {layer.name} must have {expected}, the file has {found}.")
        if found:
            layer.set_weights([arrays[key] for key in expected])
        if hasattr(layer, "kernel"):
            (pretrained if found else initialised).append(layer.name)
            if not found:  # an output of a depthwise kernel sees one channel, which is its fan-in
                *sides, channels, last = shape = tuple(layer.kernel.shape)
                swapped = isinstance(layer, keras.layers.DepthwiseConv2D) and (*sides, last, channels)
                kernel = keras.initializers.HeNormal(seed + index)(swapped or shape)
                layer.kernel.assign(keras.ops.reshape(kernel, shape))
    if arrays and not pretrained:
        raise ValueError(f"{source}: not one layer of this file belongs to the backbone.")
    return WeightReport(architecture, source, tuple(pretrained), tuple(initialised), note)


def read_weight_file(path):
    """Read a flat `.npz` of finite float arrays, keys `layer/variable`; ValueError names what is wrong."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        if bad := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
            raise ValueError(f"{bad[0]} is not all finite numbers")
    except Exception as error:  # on broken bytes NumPy and zipfile raise nearly anything
        raise ValueError(f"{path} is corrupt: {error}. Remedy: fetch the weight file anew.") from error
    return arrays


def _key(layer, variable):
    """The key in a weight file; newer Keras calls a depthwise kernel just `kernel`."""
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel"
    return f"{layer.name}/{'depthwise_' * depthwise}{variable.name}"


def _from_keras(architecture):
    """Keras' own weights by `layer/variable`, their source and no note; or none, and the reason as note."""
    with ONE, contextlib.ExitStack() as stack, contextlib.redirect_stdout(io.StringIO()):  # a report follows
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(SILENCE)
        with contextlib.suppress(ImportError, OSError):  # Windows, or a folder that Keras cannot use either
            import fcntl

            # One process at a time, for Keras takes another's half-written file for whole.
            home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))
            fcntl.flock(stack.enter_context(open(os.path.join(home, "xray.lock"), "w")), fcntl.LOCK_EX)
        try:
            if architecture not in UNREACHED:
                build = getattr(keras.applications, architecture)
                layers = build(include_top=False, weights="imagenet", input_shape=(224, 224, 3)).layers
                arrays = {_key(layer, v): np.asarray(v) for layer in layers for v in layer.weights}
                return arrays, "ImageNet, Keras' own file", ""
        except Exception as error:  # of an unreachable server Keras raises a bare Exception
            failed, reason = "URL fetch failure" in str(error), str(error).rpartition(" -- ")[2]
            if not (failed or isinstance(error, (ConnectionError, TimeoutError, HTTPException))):
                remedy = f"delete {architecture}'s file in ~/.keras/models (or $KERAS_HOME/models)."
                raise ValueError(f"Keras' own weights cannot be read: {error}. Remedy: {remedy}") from error
            if "SSL" in reason:
                reason = f"TLS: {reason}; behind a proxy, let SSL_CERT_FILE name its certificate"
            UNREACHED[architecture] = f"Keras' ImageNet weights could not be downloaded ({reason})."
    return {}, "no pre-trained weights", UNREACHED[architecture]
