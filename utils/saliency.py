"""Heat maps of the places in an image that support a class: Grad-CAM and HiResCAM."""

import keras
import numpy as np
from keras import ops

from .environment import gradient
from .models import logits_model


def class_activation(
    head: keras.Model, maps: np.ndarray, labels: np.ndarray, elementwise: bool
) -> np.ndarray:
    """Compute how strongly each place of the feature maps supports a class.

    The channels are weighted by the gradient of the class's score and summed; only
    the positive part remains. Grad-CAM (Selvaraju et al., ICCV 2017, equations 1
    and 2) averages the gradient over all places first. Flatten and dense layers
    (VGG) weight each place separately, which the average ignores. HiResCAM (Draelos
    and Carin, arXiv:2011.08891) does not average. Before global average pooling
    (MobileNet) both give the same result.

    The score is the logit, because a saturated probability has no gradient. A sigmoid
    has one logit, which counts for label 1 and, with the opposite sign, for label 0.

    Parameters
    ----------
    head
        Model from feature maps to probabilities; its last layer is a dense sigmoid
        or softmax.
    maps
        Feature maps that enter the head, float [n, height, width, channels].
    labels
        The class to explain for each image, correct or not, int [n].
    elementwise
        False: Grad-CAM. True: HiResCAM.

    Returns
    -------
    float32 [n, height, width], not negative, not normalised.

    Raises
    ------
    ValueError
        If there is not one label for each image.
    """
    logits = logits_model(head)
    signs = _logit_signs(labels, len(maps), head.output_shape[-1])

    def score(x):
        # The sum over images: no image changes the logits of another.
        return ops.sum(signs * logits(x, training=False))

    maps = ops.convert_to_tensor(maps, dtype="float32")
    weights = gradient(score, maps)
    if not elementwise:
        weights = ops.mean(weights, axis=(1, 2), keepdims=True)
    heat = ops.relu(ops.sum(weights * maps, axis=-1))
    return ops.convert_to_numpy(heat)


def upscale(heat: np.ndarray, size: int) -> np.ndarray:
    """Resize heat maps to the images' size and divide each by its maximum.

    Parameters
    ----------
    heat
        float [n, height, width], not negative.
    size
        Height and width of the images in pixels.

    Returns
    -------
    float32 [n, size, size], 0 to 1; a map of zeros stays zero.
    """
    resized = ops.image.resize(
        heat[..., np.newaxis],
        (size, size),
        interpolation="bilinear",
        data_format="channels_last",
    )
    heat = ops.convert_to_numpy(resized)[..., 0]
    maximum = heat.max(axis=(1, 2), keepdims=True)
    maximum[maximum == 0] = 1
    return heat / maximum


def share_inside(heat: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute which share of each map's heat lies inside a mask.

    Parameters
    ----------
    heat
        float [n, height, width], not negative.
    mask
        bool [height, width].

    Returns
    -------
    float64 [n], NaN for a map without heat.

    Raises
    ------
    ValueError
        If the mask and the maps differ in size.
    """
    if mask.shape != heat.shape[1:]:
        raise ValueError(
            f"the mask has size {mask.shape}, the heat maps {heat.shape[1:]}. "
            "Remedy: upscale the heat maps to the mask's size."
        )
    inside = heat[:, mask].sum(axis=1, dtype="float64")
    total = heat.sum(axis=(1, 2), dtype="float64")
    total[total == 0] = np.nan
    return inside / total


def _logit_signs(labels, n_images, n_logits):
    """How each logit counts in the score: float32 [n, logits]."""
    labels = np.asarray(labels)
    if labels.shape != (n_images,):
        raise ValueError(f"{labels.shape} labels do not fit {n_images} images.")
    signs = np.eye(n_logits)
    if n_logits == 1:
        signs = np.array([[-1.0], [1.0]])
    return signs[labels].astype("float32")
