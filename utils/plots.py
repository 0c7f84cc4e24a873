"""Figures, drawn on axes that are given or as sheets of images; t-SNE, and numbers for what it shows.
Imports data of ours, for the titles of the classes."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.text import Text
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import ConfusionMatrixDisplay, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from .data import CLASS_TITLES

# The report's colours; nothing else in a figure has one of them.
CLASS_COLOURS = dict(zip(CLASS_TITLES, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True))
SHORT_TITLES = {name: title.removesuffix(" pneumonia") for name, title in CLASS_TITLES.items()}
WIDTH, TEXT = 10, 11  # inches of a sheet at most, points of a text at least


def embed_tsne(features, perplexity, seed):
    """Embed [n, d] in the plane by t-SNE (van der Maaten and Hinton, 2008) from its PCA: float32 [n, 2]."""
    if not np.ptp(features, axis=0).any():  # a collapsed network: scikit-learn would divide by 0 and crash
        return np.zeros((len(features), 2), "float32")
    perplexity = min(perplexity, (len(features) - 1) / 3)  # of few images
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def embedding_quality(features, points, labels, neighbours=5):
    """dict: "trustworthiness" (1: all neighbours are kept; Venna and Kaski, 2001), "silhouette" (-1 to 1),
    "purity" (share of points whose nearest other points in the plane vote for their class)."""
    neighbours = min(neighbours, (len(points) - 1) // 2)  # of few images
    purity = cross_val_score(KNeighborsClassifier(neighbours), points, labels, cv=LeaveOneOut()).mean()
    kept = trustworthiness(features, points, n_neighbors=neighbours)
    return {"trustworthiness": kept, "silhouette": silhouette_score(points, labels), "purity": purity}


def plot_histories(curves, heading="", log=False):
    """A figure of accuracy and loss, a row for each of a dict of histories; `log` is of the loss's axis."""
    size = WIDTH, 3.7 * len(curves)
    fig, axes = plt.subplots(len(curves), 2, figsize=size, squeeze=False, layout="constrained")
    for row, (name, history) in zip(axes, curves.items(), strict=True):
        best = np.argmin(history["val_loss"])
        for ax, metric in zip(row, ("accuracy", "loss"), strict=True):
            val, dot = history[f"val_{metric}"], f"lowest validation loss (epoch {best + 1})"
            ax.plot(epochs := range(1, len(val) + 1), history[metric], color="0.45", label="training")
            ax.plot(epochs, val, color="tab:purple", label="validation")
            ax.scatter(best + 1, val[best], color="tab:purple", label=dot)
            ax.set(xlabel="epoch", ylabel=metric, title=f"{name}: {metric}")
        row[1].set_yscale("symlog", linthresh=1e-3) if log else None  # a loss may be 0
    return mark_source(fig, heading)


def plot_tsne(features, image_set, perplexity, seed, ax, title=""):
    """Embed features of an ImageSet, draw each class with its count, and return their `embedding_quality`."""
    points, labels = embed_tsne(features, perplexity, seed), image_set.labels
    for k, name in enumerate(image_set.class_names):
        label = f"{SHORT_TITLES[name]} ({sum(labels == k)})"
        ax.scatter(*points[labels == k].T, s=22, alpha=0.8, color=CLASS_COLOURS[name], label=label)
    ax.set(xticks=[], yticks=[], title=title, xlabel="t-SNE 1", ylabel="t-SNE 2")
    return embedding_quality(features, points, labels)


def plot_scores(p, image_set, ax, title=""):
    """Draw each image's probability of COVID-19 in the row of its class."""
    colours = np.array([CLASS_COLOURS.get(name, "0.5") for name in image_set.class_names])
    rows = image_set.labels + np.random.default_rng(0).uniform(-0.3, 0.3, len(p))
    ax.scatter(p, rows, s=12, color=colours[image_set.labels])
    ax.axvline(0.5, color="0.4", linestyle=":")
    ax.set_yticks(range(len(colours)), image_set.titles)
    ax.set(xlabel="probability of COVID-19", title=title, xlim=(-0.03, 1.03), ylim=(len(colours) - 0.5, -0.5))


def plot_confusion(p, image_set, ax, title=""):
    """Draw how many images of each class are called what, from probabilities [n, classes]."""
    titles = [SHORT_TITLES[name] for name in image_set.class_names]
    look = {"display_labels": titles, "cmap": "Greys", "colorbar": False, "labels": range(len(titles))}
    ConfusionMatrixDisplay.from_predictions(image_set.labels, p.argmax(axis=1), ax=ax, **look)
    ax.set(title=title, xlabel="predicted class", ylabel="true class")
    ax.grid(False)


def draw_blocks(model, ax, title=""):
    """Draw a Keras model downwards, a box a layer, or one for all layers of VGG's block1, block2, …"""
    blocks = {}
    for layer in model.layers:
        name = layer.name.split("_")[0] if layer.name.startswith("block") else layer.name
        blocks.setdefault(name, []).append(layer)
    for y, (name, layers) in enumerate(blocks.items()):
        shape = " × ".join(f"{side:,}" for side in layers[-1].output.shape[1:])
        count = sum(layer.count_params() for layer in layers)
        frozen = count and not any(layer.trainable_weights for layer in layers)
        ax.barh(y, 1, color="0.82" if frozen else "white", edgecolor="0.4")
        for x, side, text in ((0.02, "left", name), (0.7, "right", shape), (0.98, "right", f"{count:,}")):
            ax.text(x, y, text, ha=side, va="center", fontsize=TEXT)
    ax.set(title=title, xlabel="layer, shape of its output, parameters; grey: frozen", frame_on=False)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(blocks) - 0.5, -0.5), xticks=[], yticks=[])


def image_sheet(images, titles, columns=6, colours=None, heading=""):
    """A figure of images [n, h, w] or [n, h, w, 3] of 0 to 255, each under its title, of one line or more."""
    if not len(images):
        images, titles, colours = np.full((1, 1, 1), 255), ["no image"], None
    columns = min(columns, len(images))
    rows, side = -(-len(images) // columns), min(WIDTH / columns, 2.6)
    size = side * columns, rows * (side + 0.19 * (1 + max(title.count("\n") for title in titles)))
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for k, ax in enumerate(axes.flat):
        ax.axis("off")
        if k < len(images):
            ax.imshow(images[k], cmap="gray", vmin=0, vmax=255)
            ax.set_title(titles[k], fontsize=TEXT, color=colours[k] if colours else "black")
    return mark_source(fig, heading)


def overlay_sheet(images, heat, titles, columns=6, colours=None, heading="", boxes=()):
    """An `image_sheet` under heat maps [n, h, w] of 0 to 1, and `boxes` (such as `LUNG_BOXES`) outlined."""
    fig = image_sheet(images, titles, columns, colours, heading)
    for ax, share in zip(fig.axes[: len(images)], heat, strict=True):
        ax.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * share)
        for top, bottom, left, right in boxes:
            box = plt.Rectangle((left, 1 - bottom), right - left, bottom - top, transform=ax.transAxes)
            ax.add_patch(box).set(fill=False, edgecolor="white")
    fig.set_figheight(fig.get_figheight() + 0.7)  # room for a bar that takes none of the images' width
    scale, look = plt.cm.ScalarMappable(plt.Normalize(0, 1), "inferno"), {"pad": 0.02, "shrink": 0.5}
    fig.colorbar(scale, ax=fig.axes, location="bottom", aspect=30, label="heat (1 = maximum)", **look)
    return mark_source(fig)


def sample_sheet(image_set, per_class, seed, heading=""):
    """An `image_sheet` of images of each class of an ImageSet, drawn at random."""
    rng, labels, classes = np.random.default_rng(seed), image_set.labels, image_set.class_names
    rows = np.hstack([rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in np.unique(labels)])
    titles, colours = ([table[classes[k]] for k in labels[rows]] for table in (SHORT_TITLES, CLASS_COLOURS))
    return image_sheet(image_set.images[rows], titles, 6, colours, heading)


def captions(p, image_set):
    """For each image what it is and what it is called, with that probability: p [n] of label 1, or [n, k]."""
    p = np.stack([1 - p, p], axis=1) if np.ndim(p) == 1 else p
    titles = [SHORT_TITLES[name] for name in image_set.class_names]
    called = [f"{titles[row.argmax()]} ({row.max():.2f})" for row in p]
    return [f"true: {titles[k]}\n{text}" for k, text in zip(image_set.labels, called, strict=True)]


def own_sheet(own, heat, p, known, train_set):
    """An image [1, h, w, 3] with its answer and heat, or refused, beside its nearest ones."""
    near = train_set.subset(known.neighbours)
    answer = captions(p, near.subset([0]))[0].split("\n")[1] if known.accepted else "refused"
    titles = [f"this image:\n{answer}", *(f"near it:\n{near.titles[k]}" for k in near.labels)]
    heat = np.concatenate([heat * known.accepted, np.zeros((len(near), *heat.shape[1:]))])
    return overlay_sheet(np.concatenate([own, near.images]), heat, titles, 4)


def mark_source(fig, title=""):
    """Print the source's title (phantom images) above a figure, legends below; no text is under 11 points."""
    fig.text(0.5, 1.0, title.upper(), ha="center", va="bottom", weight="bold")
    for ax in fig.axes:
        ax.tick_params(labelsize=TEXT)
        if ax.get_legend_handles_labels()[0]:  # below the axes a legend hides no point
            pad = 4 if len(ax.get_xticks()) else 2.2  # in font sizes: room for tick labels and caption
            look = {"frameon": False, "handlelength": 1.2, "handletextpad": 0.5, "columnspacing": 1.2}
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=pad, ncols=2, **look)
    for text in fig.findobj(Text):
        text.set_fontsize(max(TEXT, text.get_fontsize()))
    return fig
