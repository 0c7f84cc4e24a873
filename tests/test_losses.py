"""The focal loss against Keras' own, a float64 reference and a hand-computed case."""

import keras
import numpy as np
import pytest
from scipy.special import expit, log_expit

from utils.losses import BinaryFocalLoss, binary_focal_loss
from utils.session import gradient


def reference(y, p, alpha, gamma):
    """Equation 5 of Lin et al. in float64, straight from the paper."""
    y, p = np.asarray(y, "float64"), np.asarray(p, "float64")
    p_t = np.where(y == 1, p, 1 - p)
    return -np.where(y == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * np.log(p_t)


RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (64, 1)).astype("float32")
P = RNG.uniform(0.001, 0.999, (64, 1)).astype("float32")


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_equals_keras_and_numpy(alpha, gamma):
    expected = reference(LABELS, P, alpha, gamma).mean()
    keras_own = keras.losses.BinaryFocalCrossentropy(alpha=alpha, gamma=gamma, apply_class_balancing=True)
    logits = np.log(P.astype("float64") / (1 - P)).astype("float32")
    assert float(keras_own(LABELS, P)) == pytest.approx(expected, abs=1e-6)
    assert float(BinaryFocalLoss(alpha, gamma)(LABELS, P)) == pytest.approx(expected, abs=1e-6)
    assert float(BinaryFocalLoss(alpha, gamma, True)(LABELS, logits)) == pytest.approx(expected, abs=1e-6)


def test_hand_computed():
    # p_t = 0.9 for the label 1: 0.25 * 0.1^2 * -ln 0.9; p_t = 0.8 for the label 0: 0.75 * 0.2^2 * -ln 0.8.
    loss = keras.ops.convert_to_numpy(binary_focal_loss(np.array([1.0, 0.0]), np.array([0.9, 0.2])))
    np.testing.assert_allclose(loss, [2.6340e-4, 6.6943e-3], rtol=1e-4)


def test_alpha_favours_label_zero():
    """With alpha = 0.25 an equally wrong covid image (label 0) weighs three times a normal one."""
    covid, normal = keras.ops.convert_to_numpy(binary_focal_loss(np.array([0.0, 1.0]), np.array([0.7, 0.3])))
    assert covid / normal == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize(
    ("values", "from_logits"), [([0.0, 1.0, 0.0, 1.0], False), ([-1e4, 1e4, 1e4, -1e4], True)]
)
def test_finite_at_the_ends(values, from_logits, gamma, dtype):
    labels, values = np.array([0.0, 0.0, 1.0, 1.0]), np.array(values, dtype)
    loss = binary_focal_loss(labels, values, gamma=gamma, from_logits=from_logits)
    assert np.isfinite(keras.ops.convert_to_numpy(loss)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_gradient_equals_the_papers_however_large_the_logit(gamma, label):
    logits = np.array([-1e4, -100.0, -90.0, -3.0, 0.0, 3.0, 90.0, 100.0, 1e4], "float32")
    labels = np.full_like(logits, label)

    def total(x):
        return keras.ops.sum(binary_focal_loss(labels, x, gamma=gamma, from_logits=True))

    measured = keras.ops.convert_to_numpy(gradient(total, logits))
    # Lin et al., appendix B, for y = 1 and -1, times alpha_t; expit(-x) is 1 - p_t without cancellation.
    sign, alpha_t = (1, 0.25) if label else (-1, 0.75)
    x = sign * logits.astype("float64")
    p_t, rest = expit(x), expit(-x)
    expected = alpha_t * sign * rest**gamma * (gamma * p_t * log_expit(x) - rest)
    np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-6)


def test_round_trip_through_its_configuration():
    loss = BinaryFocalLoss(alpha=0.4, gamma=1.5, from_logits=True)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.alpha, again.gamma, again.from_logits) == (0.4, 1.5, True)


@pytest.mark.parametrize("bad", [{"alpha": 1.2}, {"alpha": -0.1}, {"gamma": -1.0}])
def test_refuses_impossible_parameters(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        BinaryFocalLoss(**bad)
