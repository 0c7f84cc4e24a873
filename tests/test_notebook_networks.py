"""The networks and the augmentation in the notebooks are those of `utils`."""

from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest

from utils import augmentation, models

ROOT = Path(__file__).resolve().parents[1]


def run_cells(notebook, tag, **names):
    """What a notebook's cells with a tag define, when they can use these names."""
    cells = nbformat.read(ROOT / f"{notebook}.ipynb", as_version=4).cells
    names = {"keras": keras, **names}
    for cell in cells:
        if tag in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return names


def describe(model):
    """The type, size, output, trained weights and settings of each layer."""
    rows = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            rows += describe(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            config = layer.get_config()
            row = [
                type(layer),
                layer.count_params(),
                layer.output.shape,
                len(layer.trainable_weights),
                config.get("activation"),
                config.get("momentum"),
                config.get("scale"),
            ]
            rows.append(row)
    return rows


@pytest.fixture(scope="module")
def mobilenet():
    """The notebook loads it, weights included, in a cell without a tag."""
    base = keras.applications.MobileNet(
        include_top=False,
        weights=None,
        input_shape=(224, 224, 3),
    )
    return models.with_fused_normalization(base)


@pytest.mark.parametrize(
    ("notebook", "name", "n_outputs"),
    [
        ("Task1_binary", "model", 1),
        ("Task2_multiclass", "vgg_model", 4),
    ],
)
def test_vgg16(notebook, name, n_outputs, mobilenet):
    base, _ = models.build_backbone("VGG16", "none")
    base.trainable = False
    features = keras.layers.Flatten()(base.output)
    head = models.build_head(features.shape[1], n_outputs)
    expected = keras.Model(base.input, head(features))
    network = run_cells(notebook, "build", mobilenet=mobilenet)[name]
    assert describe(network) == describe(expected)


def test_mobilenet(mobilenet):
    base, _ = models.build_backbone("MobileNet", "none")
    expected = models.build_classifier(base, n_outputs=4)
    names = run_cells("Task2_multiclass", "build", mobilenet=mobilenet)
    assert describe(names["mobilenet_model"]) == describe(expected)


@pytest.mark.parametrize("notebook", ["Task1_binary", "Task2_multiclass"])
def test_augmentation(notebook):
    build = run_cells(notebook, "augmentation")["course_augmentation"]
    images = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3))
    copies = augmentation.augment(build(seed=5), images)
    expected = augmentation.course_augmentation(seed=5)
    np.testing.assert_array_equal(copies, augmentation.augment(expected, images))
