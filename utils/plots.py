"""Figures. Each function draws on the axes that it is given and returns them, or makes a sheet of images."""

import matplotlib.pyplot as plt
import numpy as np

# The report's colours, the same in every figure.
CLASS_COLOURS = {
    "covid": "tab:blue",
    "normal": "tab:orange",
    "pneumonia_bac": "tab:green",
    "pneumonia_vir": "tab:red",
}


def mark_source(fig, title):
    """Print the source's title (phantom images) above a figure, so that it goes wherever the figure goes."""
    if title:
        fig.text(0.5, 1.0, title.upper(), ha="center", va="bottom", color="tab:red", weight="bold")
    return fig


def plot_history(history, metric, ax):
    """Draw training and validation curves of one metric, and mark the epoch of the lowest validation loss.

    `history` maps "loss", "val_loss", … to one value an epoch; `metric` is "loss" or "accuracy".
    """
    epochs = np.arange(1, len(history[metric]) + 1)
    best = int(np.argmin(history["val_loss"]))
    ax.plot(epochs, history[metric], color="0.45", label="training")
    ax.plot(epochs, history[f"val_{metric}"], color="tab:purple", label="validation")
    ax.plot(
        epochs[best],
        history[f"val_{metric}"][best],
        "o",
        color="tab:purple",
        label=f"lowest validation loss (epoch {epochs[best]})",
    )
    ax.set(xlabel="epoch", ylabel=metric, title=f"{metric.capitalize()} during training")
    ax.legend()
    return ax


def plot_embedding(points, labels, class_names, titles, ax, title=""):
    """Draw points [n, 2] in their class's colour; the legend gives each class's title and count."""
    for k, name in enumerate(class_names):
        chosen = points[np.asarray(labels) == k]
        ax.scatter(
            *chosen.T, s=22, alpha=0.8, color=CLASS_COLOURS[name], label=f"{titles[name]} ({len(chosen)})"
        )
    ax.set(xticks=[], yticks=[], title=title, xlabel="t-SNE 1", ylabel="t-SNE 2")
    ax.legend()
    return ax


def plot_intervals(names, intervals, ax, colours=None, reference=None, reference_label="the report"):
    """Draw scores with their intervals, one row a name; `reference` is a value a row, or one for all."""
    rows = np.arange(len(names))
    value, low, high = np.array(intervals, "float64").T
    # Rounding can leave the end of an interval a hair inside its value.
    ax.errorbar(
        value, rows, xerr=np.maximum([value - low, high - value], 0), fmt="none", ecolor="0.4", capsize=3
    )
    ax.scatter(value, rows, color=colours or "0.15", zorder=3, label="this run, 95 % interval")
    if reference is not None:
        marks = np.broadcast_to(reference, len(names))
        ax.scatter(marks, rows, marker="|", s=200, color="tab:red", zorder=4, label=reference_label)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plot_reliability(bins, ax, label="this run"):
    """Draw accuracy against confidence, with interval and number of images of each `calibration.Bin`."""
    accuracy, low, high = np.array([b.accuracy for b in bins]).T
    confidence = [b.confidence for b in bins]
    bars = np.maximum([accuracy - low, high - accuracy], 0)
    ax.plot([0, 1], [0, 1], ":", color="0.4", label="confidence = accuracy")
    ax.errorbar(confidence, accuracy, yerr=bars, fmt="o-", capsize=3, label=f"{label}, 95 % interval")
    for b in bins:
        ax.annotate(
            f"n = {b.count}",
            (b.confidence, b.accuracy.low),
            (0, -11),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    ax.set(xlabel="mean probability of the predicted class", ylabel="share that is right", ylim=(-0.1, 1.05))
    ax.legend(loc="lower right")
    return ax


def draw_blocks(blocks, ax, title=""):
    """Draw an architecture as a row of boxes, left to right; `blocks` is a list of (name, detail)."""
    for k, (name, detail) in enumerate(blocks):
        ax.text(
            k, 0, f"{name}\n{detail}", ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "0.4"},
        )  # fmt: skip
        if k:
            ax.annotate("", (k - 0.36, 0), (k - 0.64, 0), arrowprops={"arrowstyle": "->", "color": "0.4"})
    ax.set(xlim=(-0.6, len(blocks) - 0.4), ylim=(-1, 1), title=title)
    ax.axis("off")
    return ax


def image_sheet(images, titles, columns=6, colours=None, heading=""):
    """A sheet of images [n, h, w] or [n, h, w, 3] of 0 to 255, each with its title; returns the figure."""
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(2.0 * columns, 2.35 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for k, (ax, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=8, color=colours[k] if colours else "black")
    if heading:
        fig.suptitle(heading)
    fig.tight_layout()
    return fig


def overlay_sheet(images, heat, titles, columns=6, colours=None, heading="", boxes=()):
    """An `image_sheet` with heat maps laid over the images, and one colour bar; returns the figure.

    `heat` is float [n, h, w] of 0 to 1, from `utils.gradcam.grad_cam`: the hotter, the less it lets through.
    `boxes` are outlined in every image: (top, bottom, left, right) as fractions of its height and width.
    """
    fig = image_sheet(images, titles, columns, colours, heading)
    axes, width = fig.axes, fig.get_figwidth() + 0.9  # inches, for the colour bar
    fig.set_figwidth(width)
    fig.tight_layout(rect=(0, 0, 1 - 0.9 / width, 1))
    height, length = heat.shape[1:]
    for ax, share in zip(axes[: len(images)], heat, strict=True):
        layer = ax.imshow(share, cmap="turbo", vmin=0, vmax=1, alpha=0.6 * share)
        for top, bottom, left, right in boxes:
            # The first pixel reaches from -0.5 to 0.5.
            corner, size = (left * length - 0.5, top * height - 0.5), (right - left, bottom - top)
            box = plt.Rectangle(corner, size[0] * length, size[1] * height, fill=False, edgecolor="white")
            ax.add_patch(box)
    low, high = axes[-1].get_position().y0, axes[0].get_position().y1
    bar = fig.colorbar(layer, fig.add_axes((1 - 0.8 / width, low, 0.15 / width, high - low)))
    bar.ax.tick_params(labelsize=7)
    bar.set_label("heat, share of the maximum", fontsize=7)
    return fig


def sample_sheet(image_set, titles, per_class, seed, heading=""):
    """A sheet of `per_class` images of each class of an ImageSet, drawn at random; returns the figure."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.choice(np.flatnonzero(image_set.labels == k), per_class, replace=False)
        for k in range(len(titles))
    ]
    sample = image_set.subset(np.concatenate(rows))
    return image_sheet(
        sample.images,
        [titles[k] for k in sample.labels],
        columns=per_class,
        colours=[CLASS_COLOURS[image_set.class_names[k]] for k in sample.labels],
        heading=heading,
    )
