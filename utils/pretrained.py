"""ImageNet weights for a backbone: from a folder of `.npz` files, or from Keras."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

REMEDY = (
    "Remedy: let WEIGHTS name a folder with vgg16_imagenet.npz and "
    "mobilenet_imagenet.npz, or 'none' for random weights, or leave it empty to "
    "download Keras' own."
)


@dataclass(frozen=True)
class WeightSource:
    """Where a backbone's weights come from."""

    architecture: str
    is_imagenet: bool
    detail: str

    def __str__(self) -> str:
        kind = "ImageNet weights" if self.is_imagenet else "RANDOM weights"
        return f"{self.architecture}: {kind} ({self.detail})"


def load_imagenet(
    base: keras.Model, architecture: str, folder: str = ""
) -> WeightSource:
    """Load ImageNet weights into a backbone of `keras.applications`.

    Parameters
    ----------
    base : keras.Model
        The backbone without its top; it may have further layers without weights.
    architecture : str
        Its name in `keras.applications`, such as "VGG16".
    folder : str
        A folder of `<architecture>_imagenet.npz` files with keys `layer/variable`;
        "none" keeps the random weights; an empty text lets Keras download its own.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If a file does not fit the backbone, or Keras' own file is corrupt.
    """
    if folder == "none":
        return WeightSource(architecture, False, "WEIGHTS=none requests them")
    if folder:
        return _load_from_folder(base, architecture, Path(folder).expanduser())
    return _load_from_keras(base, architecture)


def _load_from_folder(base, architecture: str, folder: Path) -> WeightSource:
    if not folder.is_dir():
        raise FileNotFoundError(f"WEIGHTS={folder} is not a folder. {REMEDY}")
    path = folder / f"{architecture.lower()}_imagenet.npz"
    if not path.is_file():
        return WeightSource(architecture, False, f"the folder has no {path.name}")
    arrays = _read(path)
    for layer in base.layers:
        keys = [_key(layer, variable) for variable in layer.weights]
        missing = [key for key in keys if key not in arrays]
        if missing:
            raise ValueError(f"{path.name} has no {missing[0]}. {REMEDY}")
        try:
            layer.set_weights([arrays[key] for key in keys])
        except ValueError as error:  # another shape
            raise ValueError(f"{path.name}: {error}. {REMEDY}") from error
    return WeightSource(architecture, True, path.name)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # on broken bytes NumPy and zipfile raise many kinds
        raise ValueError(f"{path.name} cannot be read: {error}. {REMEDY}") from error


def _key(layer, variable) -> str:
    """The key of a variable; newer Keras calls a depthwise kernel just `kernel`."""
    name = variable.name
    if name == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        name = "depthwise_kernel"
    return f"{layer.name}/{name}"


def _load_from_keras(base, architecture: str) -> WeightSource:
    build = getattr(keras.applications, architecture)
    try:
        keras_base = build(
            include_top=False,
            weights="imagenet",
            input_shape=(224, 224, 3),
        )
    except Exception as error:  # where a server cannot be reached, a bare Exception
        if "URL fetch failure" not in str(error):
            folder = "~/.keras/models (or $KERAS_HOME/models)"
            remedy = f"Remedy: delete the file of {architecture} in {folder}."
            raise ValueError(f"Keras' weights: {error}. {remedy}") from error
        reason = str(error).rpartition(" -- ")[2]
        return WeightSource(architecture, False, f"Keras' download failed: {reason}")
    base.set_weights(keras_base.get_weights())
    return WeightSource(architecture, True, "downloaded by Keras")
