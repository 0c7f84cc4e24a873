"""Heat maps of the places in an image that speak for a class: Grad-CAM and HiResCAM.
Imports session and models of ours."""

import re

import numpy as np
import pandas as pd
from keras import ops

from .models import logits_model, split_at
from .session import gradient


def grad_cam(model, images, labels, elementwise=False, batch_size=16):
    """Heat maps, float32 [n, height, width] of 0 to 1, of what speaks for a class in each image.
    Selvaraju et al. (ICCV 2017), equations 1 and 2: each channel of the `default_layer` is weighted by the
    gradient of the class's score, averaged over the places; the heat is the positive part of the weighted
    sum, as a share of its maximum, and zero throughout where nothing speaks for the class. The score is the
    logit (a saturated probability has no gradient); for label 0 of a sigmoid, minus it.
    Flatten and dense layers (VGG) weigh each place by itself, which the average forgets: the heat can then
    lie where the model does not look. HiResCAM (elementwise=True; Draelos and Carin, arXiv:2011.08891) leaves
    the average out; before global average pooling (MobileNet) both are the same map.
    The model is a chain of layers, its backbone inlined or nested, that ends in a dense sigmoid or softmax;
    images [n, height, width, channels]; labels, int [n], are the classes to explain, true or not."""
    base, head = split_at(model, default_layer(model))
    logits = logits_model(head)
    signs = _signs(labels, len(images), model.output_shape[-1])
    heat = np.zeros(np.shape(images)[:3], "float32")
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        features = base(ops.convert_to_tensor(images[rows], "float32"), training=False)

        def score(x, signs=signs[rows]):
            return ops.sum(logits(x, training=False) * signs)  # no image has a part in another's logits

        weights = gradient(score, features)
        if not elementwise:
            weights = ops.mean(weights, axis=(1, 2), keepdims=True)
        found = ops.relu(ops.sum(weights * features, axis=-1, keepdims=True))
        found = ops.image.resize(found, heat.shape[1:], "bilinear", data_format="channels_last")
        heat[rows] = ops.convert_to_numpy(found)[..., 0]
    peaks = heat.max(axis=(1, 2), keepdims=True, initial=0)  # after the resizing, which lowers a peak
    return np.divide(heat, peaks, out=heat, where=peaks > 0)


def default_layer(model):
    """Name of the last layer with 4-D output that is no pooling, as by Selvaraju et al., nested or not."""
    layers = [part for layer in model.layers for part in getattr(layer, "layers", [layer])]
    maps = [layer for layer in layers if len(layer.output.shape) == 4]
    names = [layer.name for layer in maps if not re.search("Pooling|InputLayer", type(layer).__name__)]
    if not names:
        raise ValueError(f"{model.name} has no layer whose output is 4-D")
    return names[-1]


def shares_by_class(heat, mask, labels, titles):
    """A row a class: how much of its maps' heat lies inside a mask, beside the mask's share of the area.
    `heat` is [n, height, width], `mask` bool [height, width], `titles` one a class. Maps of zeros are counted
    and left out of the mean."""
    mask, labels = np.asarray(mask, bool), np.asarray(labels)
    inside, total = heat[:, mask].sum(axis=1, dtype="float64"), heat.sum(axis=(1, 2), dtype="float64")
    rows = {}
    for k, title in enumerate(titles):
        hot = (labels == k) & (total > 0)
        share = (inside[hot] / total[hot]).mean() if hot.any() else np.nan
        rows[title] = (sum(labels == k), sum((labels == k) & ~hot), share, mask.mean())
    columns = ["images", "maps without heat", "mean share inside", "share if spread evenly"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def _signs(labels, n, units):
    """What each logit counts for in the score: float32 [n, units]."""
    labels, classes = np.asarray(labels, "int64"), max(units, 2)
    if labels.shape != (n,) or not all(0 <= label < classes for label in labels):
        raise ValueError(f"labels must be {n} integers of 0 to {classes - 1}, one for each image")
    return (np.eye(units)[labels] if units > 1 else 2 * labels[:, None] - 1).astype("float32")
