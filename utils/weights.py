"""Pre-trained ImageNet weights: from Keras, else from a folder of `.npz` files, else He initialisation."""

import contextlib
import http.client
import io
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

# The partial files that a folder may hold. VGG19's first seven convolutions have the shapes of VGG16's.
PARTIAL_FILES = {
    "VGG16": "vgg19_imagenet_partial.npz",
    "VGG19": "vgg19_imagenet_partial.npz",
    "MobileNet": "mobilenet_imagenet_partial.npz",
}
# What Keras lets through of a connection that breaks in the middle.
CONNECTION = (ConnectionError, TimeoutError, http.client.HTTPException)
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclass(frozen=True)
class WeightReport:
    """Where the weights of each convolution of a backbone came from.

    `source` names the pre-trained ones' origin, `note` says why nothing better was used; the rest are names.
    """

    architecture: str
    source: str
    pretrained: tuple
    initialised: tuple
    identity: tuple = ()
    note: str = ""

    @property
    def complete(self):
        """Whether every convolution is pre-trained."""
        return not (self.initialised or self.identity)

    @property
    def share(self):
        """How many convolutions are pre-trained, such as "7 of 13"."""
        return f"{len(self.pretrained)} of {len(self.pretrained + self.initialised + self.identity)}"

    def __str__(self):
        text = f"{self.architecture}: {self.share} convolutions pre-trained ({self.source})"
        if self.initialised:
            text += f"; He-initialised: {', '.join(self.initialised)}"
        if self.identity:
            text += f"; passing their input through: {', '.join(self.identity)}"
        return f"{text}.\n{self.note}" if self.note else text


def load_backbone_weights(layers, architecture, folder=None, download=True, seed=0):
    """Set the weights of a backbone's layers in place, and report where they came from.

    Parameters
    ----------
    layers : iterable of built Keras layers, named as in `keras.applications`.
    architecture : str, a class name of `keras.applications`: "VGG16", "MobileNet", …
    folder : path or None: where the partial `.npz` files lie, used when the full weights cannot be had.
    download : bool: whether Keras may look for (in its cache) or download the full ImageNet weights.
    seed : int, of the He initialisation of every convolution that gets no pre-trained weights.

    Returns
    -------
    WeightReport

    Raises
    ------
    ValueError
        If a file is unreadable, or holds a wrong shape, half a layer or a value that is not finite; names it.
    """
    layers = list(layers)
    arrays, source, notes = {}, "no pre-trained weights", []
    if download:
        arrays, note = _keras_imagenet(architecture)
        notes += [note] if note else []
        source = "ImageNet, Keras' own file" if arrays else source
    if not arrays and folder is not None:
        if architecture in PARTIAL_FILES:
            path = Path(folder) / PARTIAL_FILES[architecture]
            arrays, source = read_weight_file(path), f"ImageNet, {path.name}"
        else:
            notes.append(f"The weight folder has no file for {architecture}.")
    loaded = _assign(layers, arrays, source)
    return _fill_the_rest(layers, architecture, loaded, source, seed, " ".join(notes))


def read_weight_file(path):
    """Read a flat `.npz` of finite float arrays, keys `layer/variable`.

    Raises FileNotFoundError or ValueError, naming the file and the first bad key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Let XRAY_WEIGHTS name the folder that holds {path.name}, or unset it."
        )
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[key] = archive[key]
    except Exception as error:  # on broken bytes NumPy and zipfile raise nearly anything
        last = f" after {list(arrays)[-1]}" if arrays else ""
        raise ValueError(f"{path} is corrupt{last}: {error}. Fetch the weight file anew.") from error
    for key, array in arrays.items():
        if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
            raise ValueError(f"{path}: {key} holds values that are not finite numbers. Fetch the file anew.")
    return arrays


def _keras_imagenet(architecture):
    """The full ImageNet weights by `layer/variable`, or none and the reason."""
    try:
        # Keras prints the address before it fails; the report says what came of it.
        with contextlib.redirect_stdout(io.StringIO()):
            build = getattr(keras.applications, architecture)
            model = build(include_top=False, weights="imagenet", input_shape=(224, 224, 3))
    except Exception as error:
        # Keras raises a bare Exception where it cannot reach the server; anything else is a real fault.
        if not ("URL fetch failure" in str(error) or isinstance(error, CONNECTION)):
            raise ValueError(
                f"The ImageNet weights of {architecture} in Keras' cache cannot be read: {error}. "
                "Delete that file in ~/.keras/models (or $KERAS_HOME/models) and run again."
            ) from error
        return {}, "The full ImageNet weights could not be downloaded (no route to Keras' server)."
    return {_key(layer, v): np.asarray(v) for layer in model.layers for v in layer.weights}, ""


def _key(layer, variable):
    """The key of a variable in a weight file: older Keras calls a depthwise kernel `depthwise_kernel`."""
    name = variable.name
    if isinstance(layer, keras.layers.DepthwiseConv2D) and name == "kernel":
        name = "depthwise_kernel"
    return f"{layer.name}/{name}"


def _assign(layers, arrays, source):
    """Set each layer that the arrays hold; the names of the layers set."""
    loaded = set()
    for layer in layers:
        keys = [_key(layer, v) for v in layer.weights]
        missing = [key for key in keys if key not in arrays]
        if len(missing) == len(keys):
            continue
        if missing:  # half a layer is a broken file; a normalisation without its convolution comes whole
            raise ValueError(
                f"{source}: layer {layer.name} is incomplete, {', '.join(sorted(missing))} is missing."
            )
        for key, variable in zip(keys, layer.weights, strict=True):
            if arrays[key].shape != tuple(variable.shape):
                raise ValueError(
                    f"{source}: layer {layer.name} expects {key} of shape {tuple(variable.shape)}, "
                    f"the file has {arrays[key].shape}."
                )
        layer.set_weights([arrays[k] for k in keys])
        loaded.add(layer.name)
    if arrays and not loaded:
        raise ValueError(f"{source}: not one layer of this file belongs to the backbone.")
    return loaded


def _fill_the_rest(layers, architecture, loaded, source, seed, note):
    """Initialise every convolution that got no weights, and write the report."""
    pretrained, initialised, identity = [], [], []
    for index, layer in enumerate(layers):
        if not isinstance(layer, CONVOLUTIONS):
            continue
        if layer.name in loaded:
            pretrained.append(layer.name)
        elif loaded and layer.name == "conv_pw_13" and layer.kernel.shape[2] == layer.kernel.shape[3]:
            # The last pointwise convolution of MobileNet: what the pre-trained layers give passes unharmed.
            _pass_through(layer, layers[index + 1])
            identity.append(layer.name)
        else:
            he = keras.initializers.HeNormal(seed=seed + index)
            height, width, channels, outputs = layer.kernel.shape
            if isinstance(layer, keras.layers.DepthwiseConv2D):  # sees one channel: fan-in is height x width
                layer.kernel.assign(keras.ops.swapaxes(he((height, width, outputs, channels)), 2, 3))
            else:
                layer.kernel.assign(he((height, width, channels, outputs)))
            if layer.use_bias:
                layer.bias.assign(keras.ops.zeros(layer.bias.shape))
            initialised.append(layer.name)
    return WeightReport(architecture, source, tuple(pretrained), tuple(initialised), tuple(identity), note)


def _pass_through(pointwise, normalisation):
    """Make a square 1x1 convolution the identity, and the batch normalisation after it neutral."""
    channels = pointwise.kernel.shape[2]
    pointwise.set_weights([np.eye(channels, dtype="float32")[None, None]])
    ones, zeros = np.ones(channels, "float32"), np.zeros(channels, "float32")
    # Variance 1 - epsilon, because the layer adds epsilon before it takes the root.
    normalisation.set_weights([ones, zeros, zeros, ones - normalisation.epsilon])
