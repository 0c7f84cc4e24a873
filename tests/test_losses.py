"""The focal loss against its formula and Keras' own."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from utils.environment import BACKEND
from utils.losses import BinaryFocalLoss, binary_focal_loss

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (64, 1))
PROBABILITIES = RNG.uniform(0.001, 0.999, (64, 1))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_equals_the_formula_and_keras(alpha, gamma):
    is_one = LABELS == 1
    p_t = np.where(is_one, PROBABILITIES, 1 - PROBABILITIES)
    alpha_t = np.where(is_one, alpha, 1 - alpha)
    # Lin et al., equation 5
    modulating = (1 - p_t) ** gamma
    formula = -alpha_t * modulating * np.log(p_t)
    balanced = keras.losses.BinaryFocalCrossentropy(
        alpha=alpha,
        gamma=gamma,
        apply_class_balancing=True,
    )
    loss = BinaryFocalLoss(alpha, gamma)(LABELS, PROBABILITIES)
    assert_allclose(loss, formula.mean(), rtol=1e-5)
    assert_allclose(loss, balanced(LABELS, PROBABILITIES), rtol=1e-5)


def test_labels_without_the_last_axis_mean_the_same():
    losses = binary_focal_loss(LABELS, PROBABILITIES)
    flat = binary_focal_loss(LABELS[:, 0], PROBABILITIES)
    assert flat.shape == (64, 1)
    assert_allclose(flat, losses)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only there Keras keeps the logit")
@pytest.mark.parametrize(
    ("logit", "label", "step"),
    [
        (100.0, 0, -0.75),
        (-100.0, 1, 0.25),
        (100.0, 1, 0.0),
    ],
)
def test_a_saturated_sigmoid_still_learns(logit, label, step):
    dense = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(1.0), BinaryFocalLoss(gamma=0.5))
    model.train_on_batch(np.array([[logit]]), np.array([[label]]))
    # The slope by the logit is alpha_t at p_t = 0, and 0 at p_t = 1.
    assert_allclose(dense.bias, [step], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 1.2),
        ("alpha", -0.1),
        ("alpha", np.nan),
        ("gamma", -1.0),
    ],
)
def test_impossible_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        BinaryFocalLoss(**{name: value})
