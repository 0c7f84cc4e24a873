"""Figures, drawn on the axes that are passed or as sheets of images.

Call `apply_style` once, before the first figure. The classes have the colours of the
report, and nothing else has one of these colours.
"""

import math
import re
from itertools import groupby

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors

from .datasets import CLASS_TITLES, ImageSet
from .scores import class_columns

CLASS_COLOURS = {
    "covid": "tab:blue",
    "normal": "tab:orange",
    "pneumonia_bac": "tab:green",
    "pneumonia_vir": "tab:red",
    "pneumonia": "0.5",  # of unknown cause, in the external images only
}
CLASS_MARKERS = {
    "covid": "o",
    "normal": "s",
    "pneumonia_bac": "^",
    "pneumonia_vir": "D",
}
SHORT_TITLES = {
    name: title.removesuffix(" pneumonia") for name, title in CLASS_TITLES.items()
}
STYLE = {
    "font.size": 11,
    "axes.titlesize": "medium",
    "figure.dpi": 90,
    "figure.constrained_layout.use": True,
    "legend.borderaxespad": 4,
    "legend.columnspacing": 1,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
}
SHEET_WIDTH = 10  # inches
SMOOTHING = 5  # epochs


def apply_style() -> None:
    """Use Matplotlib's defaults, not the user's matplotlibrc, and larger text."""
    plt.rcdefaults()
    plt.rcParams.update(STYLE)


def plot_history(history: dict, axes: tuple[Axes, Axes], title: str = "") -> None:
    """Draw accuracy, and loss on a logarithmic scale, by epoch.

    A line marks the lowest validation loss, smoothed over five epochs.

    Parameters
    ----------
    history
        "accuracy", "val_accuracy", "loss" and "val_loss", a list each, as in the
        `history` of Keras's `fit`.
    axes
        One for the accuracy and one for the loss.
    title
        Title of both axes.
    """
    accuracy_axes, loss_axes = axes
    table = pd.DataFrame(history)
    table.index = pd.RangeIndex(1, len(table) + 1)
    for ax, metric in zip(axes, ("accuracy", "loss"), strict=True):
        curves = table[[metric, f"val_{metric}"]]
        curves.columns = ["training", "validation"]
        colours = ["0.5", "tab:purple"]
        curves.plot(ax=ax, color=colours, title=title, xlabel="epoch", ylabel=metric)
    loss_axes.set_yscale("log")
    lowest = smooth(table["val_loss"]).idxmin()
    label = f"smoothed minimum: epoch {lowest}"
    loss_axes.axvline(lowest, color="black", linestyle=":", label=label)
    _add_legend(accuracy_axes)
    _add_legend(loss_axes)


def smooth(curve: pd.Series) -> pd.Series:
    """The centred moving average of a curve over five epochs, fewer at its ends."""
    return curve.rolling(SMOOTHING, center=True, min_periods=1).mean()


def plot_embedding(
    points: np.ndarray,
    image_set: ImageSet,
    ax: Axes,
    title: str = "",
    hollow: ArrayLike = (),
) -> None:
    """Draw an embedding in the plane with a colour and a marker for each class.

    Parameters
    ----------
    points : float [n, 2]
    image_set : of these n images
    hollow : int [m], rows of the points to draw hollow
    """
    is_hollow = np.isin(np.arange(len(points)), hollow)
    for label, name in enumerate(image_set.class_names):
        members = np.flatnonzero(image_set.labels == label)
        # Hollow points last, because the legend shows the first.
        members = members[np.argsort(is_hollow[members], kind="stable")]
        colour = CLASS_COLOURS[name]
        ax.scatter(
            *points[members].T,
            s=20,
            marker=CLASS_MARKERS[name],
            edgecolors=colour,
            facecolors=np.where(is_hollow[members], "white", colour),
            label=f"{SHORT_TITLES[name]} ({len(members)})",
        )
    ax.set(title=title, xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    _add_legend(ax)


def neighbour_purity(
    points: np.ndarray, labels: np.ndarray, titles: list[str], neighbours: int = 5
) -> pd.DataFrame:
    """Count to which classes the nearest neighbours of each class's points belong.

    Returns
    -------
    Shares, a row for each class and a column for each class of neighbours. A row sums
    to 1, or is 0 if the class has no point. No point is its own neighbour.
    """
    search = NearestNeighbors(n_neighbors=neighbours).fit(points)
    nearest = search.kneighbors(return_distance=False)
    shares = confusion_matrix(
        np.repeat(labels, neighbours),
        labels[nearest].ravel(),
        labels=range(len(titles)),
        normalize="true",
    )
    return pd.DataFrame(shares, index=titles, columns=titles)


def captions(probabilities: np.ndarray, image_set: ImageSet) -> list[str]:
    """Name each image's true class, then its predicted class and the probability.

    `probabilities` are as in `scores.image_losses`.
    """
    titles = [SHORT_TITLES[name] for name in image_set.class_names]
    columns = class_columns(probabilities)
    texts = []
    for label, row in zip(image_set.labels, columns, strict=True):
        predicted = titles[row.argmax()]
        texts.append(f"true: {titles[label]}\n{predicted} ({row.max():.2f})")
    return texts


def image_sheet(images: np.ndarray, titles: list[str], columns: int = 4) -> Figure:
    """Draw images, uint8 [n, h, w] or [n, h, w, 3], each under its title."""
    side = SHEET_WIDTH / columns
    rows = math.ceil(len(images) / columns)
    fig = plt.figure(figsize=(SHEET_WIDTH, rows * (side + 0.5)))
    for k, image in enumerate(images):
        ax = fig.add_subplot(rows, columns, k + 1)
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(titles[k])
        ax.axis("off")
    return fig


def overlay_sheet(
    images: np.ndarray,
    heat: np.ndarray,
    titles: list[str],
    mask: np.ndarray,
) -> Figure:
    """Draw an `image_sheet` under heat maps, float [n, h, w] of 0 to 1.

    `mask`, bool [h, w], is outlined in every image.
    """
    fig = image_sheet(images, titles)
    for ax, overlay in zip(fig.axes, heat, strict=True):
        ax.imshow(overlay, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * overlay)
        ax.contour(mask, levels=[0.5], colors="white")
    scale = plt.cm.ScalarMappable(cmap="inferno")
    fig.colorbar(scale, ax=fig.axes, label="heat (1 = maximum)")
    return fig


def draw_network(model: keras.Model, ax: Axes, title: str = "") -> None:
    """Draw a model from top to bottom, with a box for each layer or block of layers.

    Nested models are opened. A box gives the shape of the output and the number of
    parameters; it is grey if they are frozen.
    """
    label = ""
    for name, block in groupby(_inner_layers(model), key=_block_name):
        layers = list(block)
        shape = " × ".join(f"{side:,}" for side in layers[-1].output.shape[1:])
        n_parameters = sum(layer.count_params() for layer in layers)
        text = f"{shape}; {n_parameters:,} parameters"
        trainable = any(layer.trainable_weights for layer in layers)
        colour = "white"
        if n_parameters > 0 and not trainable:
            colour = "0.85"
            label = "grey: frozen"
        box = ax.barh(name, width=1, height=1, color=colour, edgecolor="0.4")
        ax.bar_label(box, [text], label_type="center")
    ax.margins(0)
    ax.invert_yaxis()
    ax.set(title=title, xlabel=label, xticks=[])


def _inner_layers(model):
    """All layers but the inputs, with those of nested models in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _inner_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _block_name(layer):
    """The block of block1_conv1 (VGG), conv_dw_1_bn (MobileNet), …, or the layer."""
    name = re.sub(r"(?:block|conv_(?:pad|dw|pw)_)(\d+).*", r"block \1", layer.name)
    return re.sub("_(bn|relu)$", "", name)


def _add_legend(ax):
    """Below the axes, where it hides nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
