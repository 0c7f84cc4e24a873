"""Figures: each thing is where it belongs, under its own name and in its own colour."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal

from utils import figures
from utils.datasets import ImageSet

plt.switch_backend("Agg")  # draws without a screen
CLASS_NAMES = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")
TITLES = ["COVID-19", "Normal", "Bacterial", "Viral"]
COLOURS = ["tab:blue", "tab:orange", "tab:green", "tab:red"]  # as in the report
LABELS = np.array([0, 0, 0, 1, 2, 2])
LEVELS = np.arange(6)  # of grey: one for each image
IMAGES = np.broadcast_to(LEVELS[:, np.newaxis, np.newaxis], (6, 8, 8))
MASK = np.zeros((8, 8), bool)
MASK[2:5, 1:4] = True


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


@pytest.fixture
def axes():
    return plt.figure().subplots(1, 2)


def image_set(labels, class_names):
    n = len(labels)
    return ImageSet(
        images=IMAGES[:n],
        labels=labels,
        class_names=class_names,
        table=pd.DataFrame(index=range(n)),
    )


def texts(artists):
    return [artist.get_text() for artist in artists]


def legend(ax):
    return texts(ax.get_legend().get_texts())


def rows(ax):
    return texts(ax.get_yticklabels())


def colours(collection):
    return collection.get_facecolor()[:, :3]


def test_a_matplotlibrc_changes_nothing():
    figures.apply_style()
    expected = plt.rcParams.copy()
    plt.rcParams["text.usetex"] = True
    plt.rcParams["axes.facecolor"] = "black"
    plt.rcParams["xtick.labelsize"] = 6
    figures.apply_style()
    assert plt.rcParams == expected


def test_each_class_has_its_colour_of_the_report_and_its_count(ax):
    points = np.arange(12).reshape(6, 2)
    four_classes = image_set(LABELS, CLASS_NAMES)
    figures.plot_embedding(points, four_classes, ax)
    for label, colour in enumerate(COLOURS):
        dots = ax.collections[label]
        members = np.equal(LABELS, label)
        assert_array_equal(dots.get_offsets(), points[members])
        assert_allclose(colours(dots), np.tile(to_rgb(colour), (members.sum(), 1)))
    assert legend(ax) == [
        "COVID-19 (3)",
        "Normal (1)",
        "Bacterial (2)",
        "Viral (0)",
    ]


def test_chosen_points_are_hollow_and_drawn_last(ax):
    points = np.arange(12).reshape(6, 2)
    four_classes = image_set(LABELS, CLASS_NAMES)
    figures.plot_embedding(points, four_classes, ax, hollow=[1, 4])
    bacterial = ax.collections[2]
    assert_array_equal(bacterial.get_offsets(), points[[5, 4]])
    assert_allclose(colours(bacterial), [to_rgb("tab:green"), to_rgb("white")])
    edges = bacterial.get_edgecolor()[:, :3]
    assert_allclose(edges, [to_rgb("tab:green")])


def test_curves_are_drawn_by_epoch(axes):
    history = {
        "accuracy": [0.5, 0.6],
        "val_accuracy": [0.3, 0.4],
        "loss": [0.9, 0.8],
        "val_loss": [1.2, 1.1],
    }
    figures.plot_history(history, axes)
    for ax, metric in zip(axes, ["accuracy", "loss"], strict=True):
        training = ax.lines[0]
        validation = ax.lines[1]
        assert_array_equal(training.get_xdata(), [1, 2])
        assert_array_equal(training.get_ydata(), history[metric])
        expected = history[f"val_{metric}"]
        assert_array_equal(validation.get_ydata(), expected)
        assert legend(ax)[:2] == ["training", "validation"]


def test_the_lowest_smoothed_loss_is_marked(axes):
    """The loss is low around epoch 30; epochs 5 and 10 are extremes."""
    epochs = np.arange(1, 101)
    loss = 1 + 0.01 * abs(epochs - 30)
    loss[4] = 0.9
    loss[9] = 50
    history = {
        "accuracy": loss,
        "val_accuracy": loss,
        "loss": loss,
        "val_loss": loss,
    }
    figures.plot_history(history, axes)
    loss_axes = axes[1]
    marker = loss_axes.lines[2]
    assert_array_equal(marker.get_xdata(), [30, 30])
    assert loss_axes.get_yscale() == "log"


def test_smoothing_by_hand():
    smoothed = figures.smooth(pd.Series([1, 2, 3, 4, 15, 6]))
    assert_allclose(smoothed, [2, 2.5, 5, 6, 7, 25 / 3])


def test_purity_counts_the_classes_of_the_nearest_other_points():
    """Five points on a line, and a class without points."""
    points = np.array([[0], [1], [1.5], [10], [11]])
    labels = np.array([0, 1, 1, 0, 1])
    table = figures.neighbour_purity(
        points,
        labels,
        titles=TITLES[:3],
        neighbours=1,
    )
    assert_allclose(table.loc["COVID-19"], [0, 1, 0])
    assert_allclose(table.loc["Normal"], [1 / 3, 2 / 3, 0])
    assert_allclose(table.loc["Bacterial"], [0, 0, 0])


@pytest.mark.parametrize(
    "probabilities",
    [
        pytest.param([0.98, 0.25], id="n"),
        pytest.param([[0.98], [0.25]], id="n, 1"),
        pytest.param([[0.02, 0.98], [0.75, 0.25]], id="n, classes"),
    ],
)
def test_captions_name_the_true_class_first(probabilities):
    """One value for each image is the probability of label 1, a normal image."""
    two_normal = image_set(np.array([1, 1]), CLASS_NAMES[:2])
    assert figures.captions(np.array(probabilities), two_normal) == [
        "true: Normal\nNormal (0.98)",
        "true: Normal\nCOVID-19 (0.75)",
    ]


def test_each_image_is_under_its_own_title_and_heat():
    heat = IMAGES / 6
    titles = list("abcdef")
    fig = figures.overlay_sheet(IMAGES, heat, titles, MASK)
    for k in LEVELS:
        ax = fig.axes[k]
        image, overlay = ax.images
        assert_array_equal(image.get_array(), IMAGES[k])
        assert image.get_clim() == (0, 255)
        assert_array_equal(overlay.get_array(), heat[k])
        assert ax.get_title() == titles[k]


def test_the_mask_is_outlined():
    fig = figures.overlay_sheet(IMAGES[:1], IMAGES[:1], ["a"], MASK)
    contour = fig.axes[0].collections[0]
    outline = contour.get_paths()[0].vertices
    assert_array_equal(outline.min(axis=0), [0.5, 1.5])
    assert_array_equal(outline.max(axis=0), [3.5, 4.5])


@pytest.mark.parametrize("nested", [True, False])
def test_boxes_have_output_and_parameters_and_frozen_ones_are_grey(nested, ax):
    """A convolution of 3 × 3 × 3 × 4 weights and 4 biases, then 36 × 2 and 2."""
    convolution = keras.layers.Conv2D(4, 3, name="block1_conv1", trainable=False)
    pooling = keras.layers.MaxPooling2D(name="block1_pool")
    inputs = keras.Input((8, 8, 3))
    features = pooling(convolution(inputs))
    if nested:
        base = keras.Model(inputs, features)
        inputs = keras.Input((8, 8, 3))
        features = base(inputs)
    flat = keras.layers.Flatten(name="flatten")(features)
    outputs = keras.layers.Dense(2, name="top")(flat)

    figures.draw_network(keras.Model(inputs, outputs), ax)

    assert rows(ax) == ["block 1", "flatten", "top"]
    assert texts(ax.texts) == [
        "3 × 3 × 4; 112 parameters",
        "36; 0 parameters",
        "2; 74 parameters",
    ]
    grey = [box.get_facecolor()[0] < 1 for box in ax.patches]
    assert grey == [True, False, False]
    assert ax.get_xlabel() == "grey: frozen"


def test_mobilenet_has_a_box_for_each_of_its_13_blocks(ax):
    base = keras.applications.MobileNet(
        input_shape=(32, 32, 3),
        alpha=0.25,
        include_top=False,
        weights=None,
    )
    figures.draw_network(base, ax)
    blocks = [f"block {k}" for k in range(1, 14)]
    assert rows(ax) == ["conv1", *blocks]
    assert ax.get_xlabel() == ""
