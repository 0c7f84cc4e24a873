"""Figures: what they say, in which colour and where; t-SNE and the numbers for it."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.text import Text
from sklearn.manifold import TSNE

from utils import plots
from utils.data import TASK_CLASSES, ImageSet

plt.switch_backend("Agg")  # draws without a screen
RNG, LABELS = np.random.default_rng(0), np.repeat([0, 1, 2], 10)
CLUSTERS = (RNG.normal(size=(30, 16)) + 20 * np.eye(16)[LABELS]).astype("float32")  # three, far apart
HISTORY = dict(loss=[3, 2, 1], val_loss=[3, 1.2, 2], accuracy=[0, 0.5, 1], val_accuracy=[0.4, 0.7, 0.9])
IMAGES = 30 * np.arange(5)[:, None, None] * np.ones((4, 8))
HEAT = np.linspace(0, 1, 5 * 4 * 8).reshape(5, 4, 8)
GREY, NAMES = np.arange(8)[:, None, None] * np.ones((4, 8)), np.array(list("abcdefgh"))  # levels: positions
FOUR = ImageSet(GREY, np.array([0, 0, 0, 1, 1, 1, 2, 3]), TASK_CLASSES["all"], NAMES, NAMES)
FROZEN = [keras.layers.Dense(n, name=f"block1_{n}", trainable=False) for n in (3, 1000)]
NETWORK = keras.Sequential([keras.Input((5, 6)), *FROZEN, keras.layers.Dense(2, name="top")])


@pytest.fixture(autouse=True)
def ax():
    yield plt.subplots(figsize=(6, 5), layout="constrained")[1]
    plt.close("all")


EVERY_PLOT = {
    "embedding": lambda ax: plots.plot_tsne(CLUSTERS, FOUR.subset(6 * LABELS // 2), 8, 0, ax, "title"),
    "histories": lambda ax: plots.plot_histories({"a": HISTORY, "b": HISTORY}, log=True),
    "confusion": lambda ax: plots.plot_confusion(np.eye(4)[FOUR.labels], FOUR, ax, "title"),
    "scores": lambda ax: plots.plot_scores(np.linspace(0, 1, 8), FOUR, ax),
    "blocks": lambda ax: plots.draw_blocks(NETWORK, ax, "title"),
    "images": lambda ax: plots.image_sheet(IMAGES, ["a\nb"] * 5, heading="heading"),
    "overlay": lambda ax: plots.overlay_sheet(IMAGES, HEAT, ["a"] * 5, boxes=[(0, 1, 0, 1)]),
    "samples": lambda ax: plots.sample_sheet(FOUR, 3, 0, "heading"),
}


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_text_is_legible_the_legend_hides_nothing_and_only_classes_have_their_colours(name, ax):
    """By Matplotlib's own settings, with text of 10 points, whose colours these are."""
    made = EVERY_PLOT[name](ax)
    fig = plots.mark_source(made if isinstance(made, plt.Figure) else ax.figure, "phantom data")
    fig.canvas.draw()
    texts = {text.get_text(): text.get_fontsize() for text in fig.findobj(Text) if text.get_text()}
    assert min(texts.values()) >= 11 and "PHANTOM DATA" in texts and fig.get_figwidth() <= 10
    covers = [one.get_window_extent().overlaps(ax.bbox) for ax in fig.axes if (one := ax.get_legend())]
    assert covers == [False] * {"embedding": 1, "histories": 4}.get(name, 0)
    if name not in ("embedding", "samples", "scores"):
        pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3]
        for colour in plots.CLASS_COLOURS.values():
            assert (pixels != np.round(255 * np.array(to_rgb(colour)))).any(axis=-1).all()


def test_histories_mark_the_epoch_of_the_lowest_validation_loss():
    axes = plots.plot_histories({"a": HISTORY, "b": HISTORY}, log=True).axes
    assert [ax.get_title() for ax in axes] == ["a: accuracy", "a: loss", "b: accuracy", "b: loss"]
    for k, (metric, lowest, scale) in enumerate([("accuracy", 0.7, "linear"), ("loss", 1.2, "symlog")] * 2):
        assert (ax := axes[k]).get_yscale() == scale
        for line, key in zip(ax.lines, (metric, f"val_{metric}"), strict=True):
            np.testing.assert_array_equal(line.get_xydata().T, [[1, 2, 3], HISTORY[key]])
        assert ax.collections[0].get_offsets().tolist() == [[2, lowest]]
        said = [text.get_text() for text in ax.get_legend().get_texts()]
        assert said == ["training", "validation", "lowest validation loss (epoch 2)"]


def test_embedding_gives_each_class_its_colour_and_count(ax):
    x, made = CLUSTERS[:13], FOUR.subset([0] * 6 + [7] * 3 + [6] * 4)  # a class may have no point
    points = plots.embed_tsne(x, 2, 0)
    assert plots.plot_tsne(x, made, 2, 0, ax) == plots.embedding_quality(x, points, made.labels)
    plots.mark_source(ax.figure)
    assert ax.get_legend_handles_labels()[1] == ["COVID-19 (6)", "Normal (0)", "Bacterial (4)", "Viral (3)"]
    for k, colour in enumerate(("tab:blue", "tab:orange", "tab:green", "tab:red")):
        np.testing.assert_array_equal(ax.collections[k].get_offsets(), points[made.labels == k])
        assert to_rgba(ax.get_legend().legend_handles[k].get_facecolor()[0], 1) == to_rgba(colour)


def test_scores_and_confusions_stand_in_the_row_of_the_true_class(ax):
    """All normals are called COVID-19, and no other image wrongly."""
    plots.plot_scores(p := np.linspace(0, 1, 8), FOUR, ax)
    x, y = ax.collections[0].get_offsets().T
    np.testing.assert_array_equal([x, np.round(y)], [p, FOUR.labels])
    assert [label.get_text() for label in ax.get_yticklabels()] == FOUR.titles
    colours = [to_rgba(plots.CLASS_COLOURS[FOUR.class_names[k]]) for k in FOUR.labels]
    np.testing.assert_allclose(ax.collections[0].get_facecolors(), colours)
    plots.plot_confusion(np.eye(4)[[0, 0, 0, 0, 0, 0, 2, 3]], FOUR, ax)
    assert [text.get_text() for text in ax.texts] == list("3000300000100001")


def test_captions_name_the_true_class_first():
    two = replace(FOUR.subset([0, 3]), class_names=("covid", "normal"))
    said = plots.captions(np.array([0.75, 0.0]), two)
    assert said == ["true: COVID-19\nNormal (0.75)", "true: Normal\nCOVID-19 (1.00)"]


@pytest.mark.parametrize("accepted", [True, False])
def test_an_image_of_ones_own_gets_an_answer_and_heat_only_if_it_is_accepted(accepted):
    known = SimpleNamespace(accepted=accepted, neighbours=np.array([7, 0, 3]))
    p, own = np.array([[0.1, 0.0, 0.9, 0.0]]), np.full((1, 4, 8), 99)
    sheet = plots.own_sheet(own, np.ones((1, 4, 8)), p, known, FOUR).axes[:4]
    answer = "Bacterial (0.90)" if accepted else "refused"
    near = [f"near it:\n{title}" for title in ("Viral pneumonia", "COVID-19", "Normal")]
    assert [ax.get_title() for ax in sheet] == [f"this image:\n{answer}", *near]
    assert [ax.images[0].get_array()[0, 0] for ax in sheet] == [99, 7, 0, 3]
    assert [ax.images[1].get_array().max() for ax in sheet] == [accepted, 0, 0, 0]


def test_blocks_name_shape_and_parameters_with_frozen_ones_shaded(ax):
    plots.draw_blocks(NETWORK, ax)
    assert [text.get_text() for text in ax.texts] == ["block1", "5 × 1,000", "4,021", "top", "5 × 2", "2,002"]
    assert [box.get_facecolor()[0] < 1 for box in ax.patches] == [True, False]


def test_overlay_lays_each_map_over_its_own_image_with_its_own_title():
    """A box of the lower left quarter; the image stays dark where it is, not stretched to black and white."""
    fig = plots.overlay_sheet(IMAGES, HEAT, list("abcde"), 3, ["tab:purple"] * 5, "", [(0.5, 1, 0, 0.25)])
    *sheet, bar = fig.axes
    assert len(sheet) == 6 and bar.get_xlim() == (0, 1) and not sheet[5].images
    for k, ax in enumerate(sheet[:5]):
        below, above = ax.images
        assert (below.get_array() == 30 * k).all() and np.array_equal(above.get_array(), HEAT[k])
        assert (below.get_clim(), above.get_clim()) == ((0, 255), (0, 1))
        assert (np.diff(above.get_alpha().ravel()) > 0).all()
        assert ax.get_title() == "abcde"[k] and ax.title.get_color() == "tab:purple"
        box = ax.transData.inverted().transform_bbox(ax.patches[0].get_window_extent()).extents
        np.testing.assert_allclose(box, [-0.5, 3.5, 1.5, 1.5], atol=1e-6)
    for fig in (plots.image_sheet(IMAGES[:0], []), plots.overlay_sheet(IMAGES[:0], HEAT[:0], [])):
        assert fig.axes[0].get_title() == "no image"


def test_samples_are_of_their_class_and_all_of_a_small_one():
    axes = [ax for ax in plots.sample_sheet(FOUR, 2, seed=1).axes if ax.images]
    assert [ax.get_title() for ax in axes] == ["COVID-19"] * 2 + ["Normal"] * 2 + ["Bacterial", "Viral"]
    drawn = [int(ax.images[0].get_array()[0, 0]) for ax in axes]
    assert len(set(drawn)) == 6 and FOUR.labels[drawn].tolist() == [0, 0, 1, 1, 2, 3]


def test_embedding_is_that_of_scikit_learn_and_its_quality_tells_clusters_from_shuffled_ones():
    """Perplexity is at most a third of the other images, as own ones may be few."""
    for perplexity, taken in ((8, 8), (1000, 29 / 3)):
        points = TSNE(perplexity=taken, init="pca", random_state=3).fit_transform(CLUSTERS)
        np.testing.assert_array_equal(plots.embed_tsne(CLUSTERS, perplexity, seed=3), points)
    good = plots.embedding_quality(CLUSTERS, points, LABELS)
    assert good["purity"] == 1 and good["silhouette"] > 0.7 and good["trustworthiness"] > 0.9
    poor = plots.embedding_quality(CLUSTERS, RNG.permutation(points), LABELS)
    assert poor["purity"] < 0.6 and poor["silhouette"] < 0.1 and poor["trustworthiness"] < 0.6
    collapsed = np.full((18, 8), 0.5)  # must not crash
    assert (points := plots.embed_tsne(collapsed, 4, 0)).shape == (18, 2) and not points.any()
    assert plots.embedding_quality(collapsed, points, np.repeat([0, 1], 9))["silhouette"] == 0


def test_purity_by_hand():
    """No point votes for itself. One of four is labelled wrongly: it is outvoted, and outvotes no other."""
    pairs = np.array([[10 * k + d, 0] for k in range(6) for d in (0, 1)])
    assert plots.embedding_quality(pairs, pairs, [0, 1] * 6, neighbours=1)["purity"] == 0
    fours = np.array([[x, y] for x in (0, 1, 100, 101) for y in (0, 1)])
    assert plots.embedding_quality(fours, fours, [0, 0, 0, 1, 1, 1, 1, 1], neighbours=3)["purity"] == 7 / 8
