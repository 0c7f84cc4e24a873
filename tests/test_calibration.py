"""Calibration against scikit-learn and hand counts."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from utils.calibration import Bin, brier, calibration_error, reliability
from utils.evaluation import wilson


def test_brier_by_hand():
    targets = np.eye(3)[[0, 1]]
    assert brier(targets, targets) == 0
    assert brier(targets, np.eye(3)[[1, 2]]) == 2
    # (0.5² + 0.3² + 0.2²) and (0.1² + 0.3² + 0.2²)
    assert brier(targets, [[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]]) == pytest.approx((0.38 + 0.14) / 2)


def test_brier_of_two_classes_is_twice_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, p = rng.integers(2, size=50), rng.uniform(size=50)
    both = np.stack([1 - p, p], axis=1)
    assert brier(np.eye(2)[y], both) == pytest.approx(2 * brier_score_loss(y, p))


def test_bins_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.0, 1, 200)
    right = rng.uniform(size=200) < confidence
    bins = reliability(confidence, right, n_bins=5, lowest=0)
    share, mean = calibration_curve(right, confidence, n_bins=5)
    assert [b.accuracy.value for b in bins] == pytest.approx(share)
    assert [b.confidence for b in bins] == pytest.approx(mean)
    assert sum(b.count for b in bins) == 200


def test_bins_by_hand_empty_ones_left_out():
    bins = reliability([0.55, 0.58, 0.95, 1.0], [True, False, True, True], n_bins=5, lowest=0.5)
    assert [(b.count, b.accuracy) for b in bins] == [(2, wilson(1, 2)), (2, wilson(2, 2))]
    assert [b.confidence for b in bins] == pytest.approx([0.565, 0.975])
    assert calibration_error(bins) == pytest.approx((2 * 0.065 + 2 * 0.025) / 4)


def test_overconfidence_shows():
    rng = np.random.default_rng(2)
    right = rng.uniform(size=500) < 0.7
    honest, bold = (reliability(np.full(500, c), right) for c in (0.7, 0.99))
    assert calibration_error(honest) < 0.05 < 0.25 < calibration_error(bold)
    assert honest[0].accuracy.low < 0.7 < honest[0].accuracy.high < bold[0].confidence


@pytest.mark.parametrize("confidence", [[], [0.4, 0.9], [0.6, 1.2], [0.6, np.nan]])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0.5 and 1"):
        reliability(confidence, np.ones(len(confidence), bool))


def test_a_hair_above_one_is_float32():
    assert reliability([np.float32(1.0000001)], [True]) == [
        Bin(pytest.approx(1), wilson(1, 1), 1),
    ]
