"""Fits on folds: what they train on, what they monitor, predict and leave behind."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from utils import fitting
from utils.environment import BACKEND
from utils.folds import Fold
from utils.models import build_head

# Two images of each patient. The labels of the second half are swapped: a fit on one
# half misclassifies all of the other.
ROWS = np.arange(48)
CLASSES = np.tile([-1, -1, 1, 1], 12)
TARGETS = np.where(ROWS < 24, CLASSES, -CLASSES)[:, np.newaxis] > 0
PLAIN = np.random.default_rng(0).normal(CLASSES, 0.3, (8, 48)).T
FIRST_HALF = Fold(train=ROWS[:24], held_out=ROWS[24:40])
SECOND_HALF = Fold(train=ROWS[24:], held_out=ROWS[:24])
EXPERIMENT = fitting.Experiment(
    samples=fitting.Samples(
        views=np.stack([PLAIN, PLAIN + 0.1]),
        plain=PLAIN,
        targets=TARGETS.astype("float32"),
        patients=ROWS // 2,
    ),
    build=lambda seed: build_head(8, 1, hidden=(16,), seed=seed),
    loss="binary_crossentropy",
    learning_rate=0.03,
    epochs=6,
)


@pytest.fixture(scope="module")
def validated():
    return fitting.cross_validate(
        {"a": EXPERIMENT},
        [FIRST_HALF, SECOND_HALF],
        seed=7,
        inputs={"mirrored": -PLAIN},
    )["a"]


def test_each_image_is_predicted_by_the_fit_that_does_not_know_it(validated):
    error = np.abs(validated.held_out() - TARGETS)
    assert np.nanmin(error) > 0.5
    assert_array_equal(np.isnan(error[:, 0]), ROWS >= 40)


def test_further_inputs_are_predicted_by_the_same_fits(validated):
    error = np.abs(validated.held_out("mirrored") - TARGETS)
    assert np.nanmax(error) < 0.5
    assert_array_equal(np.isnan(error[:, 0]), ROWS >= 40)


def test_validation_metrics_are_those_of_held_out_images(validated):
    history = validated.fits[0].history
    assert history["accuracy"][-1] == 1
    assert history["val_accuracy"][-1] == 0


def test_fold_number_k_is_fitted_from_seed_plus_k(validated):
    same = fitting.fit_fold(EXPERIMENT, SECOND_HALF, seed=8)
    other = fitting.fit_fold(EXPERIMENT, SECOND_HALF, seed=9)
    assert same.history == validated.fits[1].history
    assert same.history != other.history


def test_only_training_images_are_augmented():
    experiment = replace(
        EXPERIMENT,
        augmentation=lambda seed: keras.Sequential([layers.Dropout(0.9, seed=seed)]),
    )
    fit = fitting.fit_fold(experiment, FIRST_HALF, seed=7)
    error = np.abs(fit.predictions["plain"] - TARGETS)[24:40]
    crossentropy = -np.log(1 - error)
    assert fit.history["accuracy"][-1] < 1
    assert_allclose(fit.history["val_loss"][-1], crossentropy.mean(), rtol=1e-3)


def test_early_stopping_monitors_other_patients_of_the_training_part():
    # The features of a patient say nothing about another.
    identity = np.eye(24)[ROWS // 2]
    experiment = replace(
        EXPERIMENT,
        samples=replace(EXPERIMENT.samples, views=identity[np.newaxis], plain=identity),
        build=lambda seed: build_head(24, 1, seed=seed),
        epochs=40,
        patience=3,
    )
    history = fitting.fit_fold(experiment, SECOND_HALF, seed=7).history
    assert len(history["loss"]) < 40
    assert history["accuracy"][-1] == 1
    assert min(history["val_loss"]) > 0.3


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX frees by itself")
def test_a_finished_fit_leaves_no_variables():
    model = EXPERIMENT.build(1)
    experiment = replace(EXPERIMENT, build=lambda seed: model)
    fitting.fit_fold(experiment, FIRST_HALF, seed=7)
    for variable in model.variables:
        assert keras.ops.size(variable.value) == 0


def collect_epochs(seed, n_epochs):
    """Views and images of each epoch, of 23 images in 3 views: int [2, epochs, 23]."""
    images = np.arange(23)
    views = 100 * np.arange(3)[:, np.newaxis] + images
    batches = fitting.ViewBatches(views, images, batch_size=5, seed=seed)
    epochs = []
    for _ in range(n_epochs):
        pairs = [batches[index] for index in range(len(batches))]
        epochs.append(np.concatenate(pairs, axis=1))
        batches.on_epoch_end()
    x, targets = np.stack(epochs, axis=1)
    assert_array_equal(x % 100, targets)
    return x // 100, targets


def test_each_image_comes_once_an_epoch_in_every_view_sooner_or_later():
    views, images = collect_epochs(seed=1, n_epochs=40)
    for epoch in images:
        assert_array_equal(np.sort(epoch), np.arange(23))
    assert len(np.unique(100 * views + images)) == 3 * 23


def test_the_seed_decides_order_and_views():
    epochs = collect_epochs(seed=1, n_epochs=2)
    assert_array_equal(epochs, collect_epochs(seed=1, n_epochs=2))
    for drawn, other in zip(epochs, collect_epochs(seed=2, n_epochs=2), strict=True):
        assert not np.array_equal(drawn, other)


@pytest.mark.parametrize("kernel", [[1.0], [0.0, 1.0]])
def test_saturated_predictions_keep_their_order(kernel):
    n_outputs = len(kernel)
    model = build_head(1, n_outputs, hidden=())
    model.set_weights([np.array([kernel]), np.zeros(n_outputs)])
    logits = np.array([[20.0], [25.0], [30.0]])
    probabilities = fitting.predict(model, logits, batch_size=2)
    assert_allclose(probabilities[:, -1:], expit(logits), rtol=1e-15)
