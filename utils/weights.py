"""ImageNet weights of a backbone: from a folder of `.npz` files, else from Keras, else He initialisation.

May import: session."""

import contextlib
import io
import os
import socket
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from .session import user_path

SILENCE = 30  # seconds without a byte from Keras' server, after which it is given up
UNREACHED = {}  # architecture -> why its download failed: each is tried once a process


class WeightReport(NamedTuple):
    """Which convolutions of a backbone are pre-trained, from where, and why nothing better was used."""

    architecture: str
    source: str
    pretrained: tuple
    initialised: tuple
    note: str = ""

    complete = property(lambda self: not self.initialised)
    share = property(lambda self: f"{len(self.pretrained)} of {len(self.pretrained + self.initialised)}")

    def __str__(self):
        names = ", ".join(self.initialised) if self.pretrained else "all"
        rest = f"; He-initialised: {names}" if self.initialised else ""
        text = f"{self.architecture}: {self.share} convolutions pre-trained ({self.source}){rest}"
        return f"{text}.\n{self.note}" if self.note else text


def weight_options(requested):
    """Builders' arguments: by default Keras downloads; "none" is random; else a folder of `.npz` files."""
    if not requested or requested == "none":
        return {"weight_folder": None, "download": not requested}
    folder = user_path(requested)
    if not (os.path.isdir(folder) and any(folder.glob("*_imagenet*.npz"))):
        remedy = "name the folder of the .npz files, or 'none' for random weights, or unset it."
        raise FileNotFoundError(f"XRAY_WEIGHTS={requested} holds no weights. Remedy: {remedy}")
    return {"weight_folder": folder, "download": True}


def load_backbone_weights(layers, architecture, folder=None, download=True, seed=0):
    """Set the weights of a backbone's layers, named as in `keras.applications`, and return a WeightReport.

    `<architecture>_imagenet.npz` in `folder` (lower case), which must hold every layer, is preferred to
    `…_imagenet_partial.npz`, and both to Keras' download. ValueError names a file that is broken.
    """
    arrays, source, note = {}, "no pre-trained weights", ""
    files = [Path(folder or "", f"{architecture.lower()}_imagenet{kind}.npz") for kind in ("", "_partial")]
    if path := next((path for path in files if folder and path.is_file()), None):
        arrays, source = read_weight_file(path), f"ImageNet, {path.name}"
    elif download:
        arrays, note = _from_keras(architecture)
        source = "ImageNet, Keras' own file" if arrays else source
    pretrained, initialised = [], []
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
                height, width, *channels = shape = tuple(layer.kernel.shape)
                channels = channels[::-1] if isinstance(layer, keras.layers.DepthwiseConv2D) else channels
                kernel = keras.initializers.HeNormal(seed + index)((height, width, *channels))
                layer.kernel.assign(keras.ops.reshape(kernel, shape))
    if arrays and not pretrained:
        raise ValueError(f"{source}: not one layer of this file belongs to the backbone.")
    return WeightReport(architecture, source, tuple(pretrained), tuple(initialised), note)


def read_weight_file(path):
    """Read a flat `.npz` of finite float arrays, keys `layer/variable`; ValueError names what is wrong."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
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
    """Keras' own weights by `layer/variable`, or none and the reason."""
    with contextlib.ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(SILENCE)
        with contextlib.suppress(ImportError, OSError):  # Windows, or a folder that Keras cannot use either
            import fcntl

            # One process at a time, for Keras takes another's half-written file for whole.
            home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))
            fcntl.flock(stack.enter_context(open(os.path.join(home, "xray.lock"), "w")), fcntl.LOCK_EX)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # the report says what came of it
        try:
            if architecture not in UNREACHED:
                build = getattr(keras.applications, architecture)
                layers = build(include_top=False, weights="imagenet", input_shape=(224, 224, 3)).layers
                return {_key(layer, v): np.asarray(v) for layer in layers for v in layer.weights}, ""
        except Exception as error:  # of an unreachable server Keras raises a bare Exception
            failed, reason = "URL fetch failure" in str(error), str(error).rpartition(" -- ")[2]
            if not (failed or isinstance(error, (ConnectionError, TimeoutError, HTTPException))):
                remedy = f"delete {architecture}'s file in ~/.keras/models (or $KERAS_HOME/models)."
                raise ValueError(f"Keras' own weights cannot be read: {error}. Remedy: {remedy}") from error
            if "SSL" in reason:
                reason = f"TLS: {reason}; behind a proxy, let SSL_CERT_FILE name its certificate"
            UNREACHED[architecture] = f"Keras' ImageNet weights could not be downloaded ({reason})."
    return {}, UNREACHED[architecture]
