"""Figures: what the legends and titles say, which colour a class has, and where the marks stand."""

import os

os.environ["MPLBACKEND"] = "Agg"

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from utils import plots
from utils.calibration import Bin
from utils.evaluation import wilson
from utils.sources import CLASS_TITLES, TASK_CLASSES


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close("all")


HISTORY = {
    "loss": [3.0, 2.0, 1.0, 0.5],
    "val_loss": [3.0, 1.5, 1.2, 2.0],
    "accuracy": [0.5, 0.6, 0.8, 1.0],
    "val_accuracy": [0.4, 0.9, 0.7, 0.95],
}


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_colours_are_those_of_the_report():
    assert plots.CLASS_COLOURS == {
        "covid": "tab:blue",
        "normal": "tab:orange",
        "pneumonia_bac": "tab:green",
        "pneumonia_vir": "tab:red",
    }


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_history_marks_the_epoch_of_the_lowest_validation_loss(metric, ax):
    assert plots.plot_history(HISTORY, metric, ax) is ax
    training, validation, mark = ax.lines
    assert list(training.get_xdata()) == list(validation.get_xdata()) == [1, 2, 3, 4]
    assert list(training.get_ydata()) == HISTORY[metric]
    assert list(validation.get_ydata()) == HISTORY[f"val_{metric}"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (3, HISTORY[f"val_{metric}"][2])
    assert legend_of(ax) == ["training", "validation", "lowest validation loss (epoch 3)"]
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == metric


def test_embedding_gives_each_class_its_colour_and_count(ax):
    names = TASK_CLASSES["all"]
    labels = np.array([0, 3, 0, 1, 2, 3, 3])
    points = np.arange(14.0).reshape(7, 2)
    assert plots.plot_embedding(points, labels, names, CLASS_TITLES, ax, "title") is ax
    assert legend_of(ax) == [
        f"{CLASS_TITLES[n]} ({count})" for n, count in zip(names, (2, 1, 1, 3), strict=True)
    ]
    for k, (name, dots) in enumerate(zip(names, ax.collections, strict=True)):
        assert np.array_equal(dots.get_offsets(), points[labels == k])
        assert to_rgba(dots.get_facecolor()[0], 1) == to_rgba(plots.CLASS_COLOURS[name])
        # The legend's dot has the colour of the points, and not of another class.
        handle = ax.get_legend().legend_handles[k]
        assert to_rgba(handle.get_facecolor()[0], 1) == to_rgba(plots.CLASS_COLOURS[name])
    assert ax.get_title() == "title" and len(ax.get_xticks()) == 0


def test_embedding_takes_labels_as_a_list_and_a_class_without_points(ax):
    plots.plot_embedding(np.zeros((2, 2)), [1, 1], TASK_CLASSES["two"], CLASS_TITLES, ax)
    assert [len(dots.get_offsets()) for dots in ax.collections] == [0, 2]


def bars(ax):
    """The ends of the error bars, row by row."""
    (segments,) = [c.get_segments() for c in ax.collections if hasattr(c, "get_segments")]
    return [(s[0][0], s[1][0], s[0][1]) for s in segments]


def test_intervals_stand_in_their_rows(ax):
    intervals = [wilson(18, 18), wilson(9, 18), wilson(1, 18)]
    assert plots.plot_intervals(["a", "b", "c"], intervals, ax, reference=[0.99, 0.5, 0.2]) is ax
    for row, (interval, (low, high, y)) in enumerate(zip(intervals, bars(ax), strict=True)):
        assert (low, high, y) == pytest.approx((interval.low, interval.high, row))
    values, references = [c for c in ax.collections if not hasattr(c, "get_segments")]
    assert np.allclose(values.get_offsets(), [[i.value, row] for row, i in enumerate(intervals)])
    assert np.allclose(references.get_offsets(), [[0.99, 0], [0.5, 1], [0.2, 2]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    bottom, top = ax.get_ylim()
    assert bottom > 2 and top < 0  # the first name is on top
    assert legend_of(ax) == ["this run, 95 % interval", "the report"]


def test_interval_of_no_width_is_drawn(ax):
    intervals = [(1.0, 1.0, 1.0), (0.5, 0.5 + 1e-12, 0.5 - 1e-12)]  # the second as rounding may leave it
    plots.plot_intervals(["a", "b"], intervals, ax, colours=["tab:blue", "tab:orange"], reference=0.9)
    assert all(high - low == pytest.approx(0, abs=1e-9) for low, high, _ in bars(ax))
    values, references = [c for c in ax.collections if not hasattr(c, "get_segments")]
    assert np.allclose(values.get_facecolor(), [to_rgba("tab:blue"), to_rgba("tab:orange")])
    assert np.allclose(references.get_offsets(), [[0.9, 0], [0.9, 1]])
    ax.figure.canvas.draw()


def test_intervals_without_a_reference_name_none(ax):
    plots.plot_intervals(["a"], [(0.5, 0.4, 0.6)], ax)
    assert legend_of(ax) == ["this run, 95 % interval"]


def test_sheet_shows_each_image_under_its_own_title():
    images = np.stack([np.full((4, 4, 3), 30 * k, np.uint8) for k in range(7)])
    titles, colours = [f"image {k}" for k in range(7)], ["tab:blue", "tab:orange"] * 3 + ["tab:red"]
    fig = plots.image_sheet(images, titles, columns=3, colours=colours, heading="PHANTOM")
    assert len(fig.axes) == 9 and not any(ax.axison for ax in fig.axes)
    for k, ax in enumerate(fig.axes[:7]):
        assert ax.get_title() == f"image {k}" and ax.title.get_color() == colours[k]
        assert (ax.images[0].get_array() == 30 * k).all()
    assert not any(ax.images or ax.get_title() for ax in fig.axes[7:])
    assert fig.get_suptitle() == "PHANTOM"
    plt.close(fig)


def test_sheet_keeps_the_grey_levels_of_flat_images():
    """A dark image is drawn dark, not stretched to black and white."""
    fig = plots.image_sheet(np.full((2, 4, 4), 20, np.uint8), ["a", "b"], columns=2)
    assert all(ax.images[0].get_clim() == (0, 255) for ax in fig.axes)
    assert fig.get_suptitle() == "" and fig.axes[0].title.get_color() == "black"
    plt.close(fig)


def test_phantom_title_goes_with_the_figure():
    fig = plt.figure()
    assert plots.mark_source(fig, "phantom data") is fig
    assert [text.get_text() for text in fig.texts] == ["PHANTOM DATA"]
    assert plots.mark_source(plt.figure(), "").texts == []
    plt.close("all")


def test_blocks_stand_in_a_row_joined_by_arrows(ax):
    plots.draw_blocks([("image", "224×224×3"), ("vgg16", "7×7×512"), ("flatten", "25088")], ax, "VGG16")
    boxes = [text for text in ax.texts if text.get_text()]
    assert [text.get_text() for text in boxes] == ["image\n224×224×3", "vgg16\n7×7×512", "flatten\n25088"]
    assert [text.get_position()[0] for text in boxes] == [0, 1, 2]
    arrows = [text for text in ax.texts if not text.get_text()]
    assert [(a.xy[0] > a.xyann[0], round(a.xy[0] + a.xyann[0], 6) / 2) for a in arrows] == [
        (True, 0.5),
        (True, 1.5),
    ]
    assert ax.get_title() == "VGG16"
    low, high = ax.get_xlim()
    assert low < 0 and high > 2


def test_overlay_lays_each_map_over_its_image_under_one_colour_bar():
    images = np.stack([np.full((4, 8, 3), 30 * k, np.uint8) for k in range(5)])
    heat = np.linspace(0, 1, 5 * 4 * 8).reshape(5, 4, 8)
    fig = plots.overlay_sheet(
        images,
        heat,
        list("abcde"),
        columns=3,
        colours=["tab:blue"] * 5,
        heading="HEAT",
        boxes=[(0.5, 1, 0, 0.25)],
    )
    *sheet, bar = fig.axes
    assert len(sheet) == 6 and bar.get_ylabel() == "heat, share of the maximum" and bar.get_ylim() == (0, 1)
    assert fig.get_suptitle() == "HEAT" and sheet[0].title.get_color() == "tab:blue"
    for k, ax in enumerate(sheet[:5]):
        below, above = ax.images
        assert (below.get_array() == 30 * k).all() and np.array_equal(above.get_array(), heat[k])
        assert above.get_clim() == (0, 1) and (np.diff(above.get_alpha().ravel()) > 0).all()
        assert ax.get_title() == "abcde"[k]
        # The lower left quarter of the width: rows 2 and 3, columns 0 and 1.
        (box,) = ax.patches
        assert box.get_bbox().extents == pytest.approx([-0.5, 1.5, 1.5, 3.5]) and not box.get_fill()
    assert not sheet[5].images and not sheet[5].patches
    plt.close(fig)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (4, 6), (7, 3)])
def test_overlay_keeps_its_titles_and_its_colour_bar_inside_the_figure(n, columns):
    fig = plots.overlay_sheet(
        np.zeros((n, 9, 9), np.uint8),
        np.ones((n, 9, 9)),
        ["covid, p = 0.95"] * n,
        columns,
        heading="A heading",
    )
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    for x0, y0, x1, y1 in (ax.get_tightbbox().extents for ax in fig.axes):
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
    bar, last = fig.axes[-1].get_tightbbox(), fig.axes[min(n, columns) - 1].get_tightbbox()
    assert bar.x0 > last.x1
    plt.close(fig)


def test_overlay_needs_a_map_for_each_image():
    with pytest.raises(ValueError):
        plots.overlay_sheet(np.zeros((2, 4, 4), np.uint8), np.zeros((1, 4, 4)), ["a", "b"])
    plt.close("all")


def test_reliability_shows_counts_intervals_and_the_diagonal(ax):
    bins = [Bin(0.6, wilson(1, 4), 4), Bin(0.95, wilson(9, 9), 9)]
    plots.plot_reliability(bins, ax, "VGG16")
    assert [text.get_text() for text in ax.texts] == ["n = 4", "n = 9"]
    diagonal, curve = ax.lines[0], ax.lines[1]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    np.testing.assert_allclose(curve.get_xydata(), [(0.6, 0.25), (0.95, 1)])
    ends = np.concatenate([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(ends, [wilson(1, 4).low, wilson(1, 4).high, wilson(9, 9).low, 1], atol=1e-12)
    assert "VGG16, 95 % interval" in [text.get_text() for text in ax.get_legend().get_texts()]
