"""Grad-CAM: heat maps of the places in an image that speak for a class."""

import keras
import numpy as np
from keras import ops

from .backend import gradient
from .chains import Logits


def grad_cam(model, images, labels, layer_name=None, elementwise=False, batch_size=16):
    """Heat maps of what speaks for a class in each image.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017, equations 1 and 2: each channel of a feature map is weighted by the gradient of the class's
    score, averaged over the places; the heat is the positive part of the weighted sum. The score is the
    logit, because the gradient of a saturated probability vanishes. A sigmoid has one logit, of label 1; that
    of label 0 is minus it.

    Before global average pooling (MobileNet) a gradient is the same at every place, and its average exact.
    Flatten and dense layers (VGG) weigh each place by itself, which the average forgets: the heat can then
    lie where the model does not look, or be zero for a class that the model is sure of. HiResCAM (Draelos
    and Carin, arXiv:2011.08891) leaves the average out, and is the same map before global pooling.

    Parameters
    ----------
    model : keras.Model, a chain of layers that ends in a dense layer with sigmoid or softmax. Its backbone
        may be inlined, or nested as one layer. Channels come last. The model is not changed.
    images : [n, height, width, channels], as the model takes them.
    labels : int [n], the classes to explain; they need not be the true ones.
    layer_name : a layer with 4-D output that all paths to the logits lead through, of the model or its
        backbone; None takes `default_layer`.
    elementwise : False for Grad-CAM, True for HiResCAM.
    batch_size : int.

    Returns
    -------
    float32 array [n, height, width] of 0 to 1, each map a share of its maximum. Where nothing speaks for the
    class, the map is zero throughout.

    Raises
    ------
    ValueError
        If there is no such layer, or the labels do not fit the images or the model.
    """
    front, rest = _cut(model, layer_name)
    signs = _signs(labels, len(images), model.output_shape[-1])
    heat = np.zeros(images.shape[:3], "float32")
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        features = _apply(front, ops.convert_to_tensor(images[rows], "float32"))

        def score(x, signs=signs[rows]):
            return ops.sum(_apply(rest, x) * signs)  # no image has a part in another's logits

        weights = gradient(score, features)
        if not elementwise:
            weights = ops.mean(weights, axis=(1, 2), keepdims=True)
        maps = ops.relu(ops.sum(weights * features, axis=-1, keepdims=True))
        maps = ops.image.resize(maps, images.shape[1:3], "bilinear", data_format="channels_last")
        heat[rows] = ops.convert_to_numpy(maps)[..., 0]
    # After the resizing, which lowers a peak.
    peaks = heat.max(axis=(1, 2), keepdims=True, initial=0)
    return np.divide(heat, peaks, out=heat, where=peaks > 0)


def default_layer(model):
    """The name of the last layer with 4-D output that is no pooling; ValueError if there is none.

    Selvaraju et al. take the activations of the last convolution, after its ReLU: `block5_conv3` of VGG16
    (14 x 14 places, where `block5_pool` has 7 x 7), and `conv_pw_13_relu` of MobileNet.
    """
    names = [name for name, layer in _maps(model).items() if "Pooling" not in type(layer).__name__]
    if not names:
        raise ValueError(f"{model.name} has no layer whose output is 4-D")
    return names[-1]


def share_inside(heat, mask):
    """The share of each map's heat that lies inside a mask: float64 [n]; NaN for a map of zeros.

    `heat` is float [n, height, width] and not negative; `mask` is bool [height, width], else IndexError.
    """
    inside = heat[:, np.asarray(mask, bool)].sum(axis=1, dtype="float64")
    total = heat.sum(axis=(1, 2), dtype="float64")
    return np.divide(inside, total, out=np.full(len(heat), np.nan), where=total > 0)


def shares_by_class(heat, mask, labels, titles):
    """Mean share of the heat inside a mask for the images of each class, maps of zeros left out.

    `heat` and `mask` as for `share_inside`, `labels` int [n], `titles` one a class.

    Returns
    -------
    dict title -> {"images", "maps without heat": int, "mean share inside": float, NaN where no map has heat}
    """
    inside, rows = share_inside(heat, mask), {}
    for k, title in enumerate(titles):
        shares = inside[np.asarray(labels) == k]
        found = shares[~np.isnan(shares)]
        mean = float(found.mean()) if len(found) else float("nan")
        rows[title] = {
            "images": len(shares),
            "maps without heat": len(shares) - len(found),
            "mean share inside": mean,
        }
    return rows


def _layers(model):
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _maps(model):
    """Name -> layer for every layer with 4-D output, in order; a nested model stands for its layers."""
    found = {}
    for layer in _layers(model):
        inner = _layers(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {part.name: part for part in inner if len(part.output.shape) == 4}
    return found


def _cut(model, name):
    """The layers up to the named one, that one included, and those from there to the logits."""
    name = name or default_layer(model)
    if name not in (maps := _maps(model)):
        raise ValueError(
            f"{model.name} has no layer {name!r} whose output is 4-D; those that are: {', '.join(maps)}"
        )
    *layers, dense = _layers(model)
    k = next(k for k, layer in enumerate(layers) if maps[name] in (layer, *getattr(layer, "layers", [])))
    whole, inner = layers[k], maps[name].output
    before, after = layers[:k], [*layers[k + 1 :], Logits(dense)]
    if inner is whole.output:
        return [*before, whole], after
    # The outer model knows a nested one as a whole: only within its own graph can it be cut.
    front, rest = keras.Model(whole.input, inner), keras.Model(inner, whole.output)
    return [*before, front], [rest, *after]


def _apply(layers, x):
    for layer in layers:
        x = layer(x, training=False)
    return x


def _signs(labels, n, units):
    """What each logit counts for in the score: float32 [n, units]."""
    labels, classes = np.asarray(labels, "int64"), max(units, 2)
    if labels.shape != (n,) or not all(0 <= label < classes for label in labels):
        raise ValueError(f"labels must be {n} integers of 0 to {classes - 1}, one for each image")
    return (np.eye(units)[labels] if units > 1 else 2 * labels[:, None] - 1).astype("float32")
