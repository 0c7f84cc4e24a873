"""Intervals against SciPy, hand counts and simulated patients."""

from dataclasses import astuple

import numpy as np
import pytest
from pytest import approx
from scipy import stats
from sklearn.metrics import roc_auc_score

from utils.intervals import (
    Interval,
    bootstrap_auc,
    bootstrap_counts,
    bootstrap_mean,
    proportion,
)


def test_interval_prints_three_digits():
    interval = Interval(17 / 18, 0.742, 0.98999)
    assert str(interval) == "0.944 [0.742, 0.990]"


@pytest.mark.parametrize(("k", "n"), [(81, 263), (15, 148), (0, 20), (1, 29), (5, 5)])
def test_independent_images_have_wilsons_interval(k, n):
    """At the level at which the normal quantile equals Student's t of level 0.95."""
    t = stats.t.ppf(0.975, df=n - 1)
    reference = stats.binomtest(k, n).proportion_ci(
        confidence_level=2 * stats.norm.cdf(t) - 1,
        method="wilson",
    )
    interval = proportion(np.arange(n) < k, np.arange(n))
    assert interval.value == k / n
    assert interval.low == approx(reference.low)
    assert interval.high == approx(reference.high)


@pytest.mark.parametrize(
    ("right", "sizes", "n_effective"),
    [
        (np.tri(4).ravel(), [4, 4, 4, 4], 9),
        ([1, 1, 1, 0], [3, 1], 1.6),
        ([1, 0, 1, 0], [2, 2], 4),
    ],
)
def test_proportion_by_hand(right, sizes, n_effective):
    """Wilson's ends are where (share - end)² = t² end (1 - end) / n, n being effective.

    The first four patients have 4, 3, 2 and 1 of 4 images right. Their residuals are
    1.5, 0.5, -0.5 and -1.5, so the sum has a variance of 5 × 4 / 3. With independent
    images, it would be 16 × 0.625 × 0.375, which is 9 / 16 of that.
    Equal answers within patients leave 4² / (3² + 1²), and opposite ones all images.
    """
    patients = np.repeat(np.arange(len(sizes)), sizes)
    interval = proportion(right, patients)
    assert interval.value == np.mean(right)
    t = stats.t.ppf(0.975, df=len(sizes) - 1)
    for end in (interval.low, interval.high):
        variance = end * (1 - end) / n_effective
        distance = abs(interval.value - end)
        assert distance == approx(t * np.sqrt(variance))


@pytest.mark.parametrize("interval", [proportion, bootstrap_mean])
def test_copies_of_images_do_not_narrow_the_interval(interval):
    patients = np.arange(30)
    right = patients % 4 > 0
    single = interval(right, patients)
    tenfold = interval(
        np.repeat(right, 10),
        np.repeat(patients, 10),
    )
    assert astuple(tenfold) == approx(astuple(single))


def test_all_right_is_as_certain_as_the_number_of_patients():
    """Wilson's lower end of 5 of 5 is 5 / (5 + t²)."""
    patients = list("aaabbcdde")
    t = stats.t.ppf(0.975, df=4)
    limit = 5 / (5 + t**2)
    flawless = proportion(np.ones(9), patients)
    assert astuple(flawless) == approx((1, limit, 1))
    hopeless = proportion(np.zeros(9), patients)
    assert astuple(hopeless) == approx((0, 0, 1 - limit))


@pytest.mark.parametrize(
    ("sizes", "margin"),
    [
        ([3, 2, 2] + [1] * 11, 0.03),
        ([3, 3, 1, 1, 1], 0),
        ([6] * 5, 0),
    ],
)
def test_interval_falls_when_an_image_is_missed(sizes, margin):
    """The first is 18 of 18 images of 14 patients, and 17."""
    patients = np.repeat(np.arange(len(sizes)), sizes)
    images = np.arange(len(patients))
    flawless = proportion(images >= 0, patients)
    for missed in images:
        interval = proportion(images != missed, patients)
        assert interval.low <= flawless.low - margin
        assert interval.high < flawless.high
        mirrored = proportion(images == missed, patients)
        assert mirrored.high == approx(1 - interval.low)


@pytest.mark.parametrize("correlation", [0, 0.5])
@pytest.mark.parametrize("n_patients", [5, 14, 30, 90])
def test_proportion_covers_the_true_share(n_patients, correlation):
    """A thousand samples of patients with 1, 2 or 4 images, 0.8 of which are right.

    Where images of a patient correlate, each patient's share has a beta distribution.
    """
    rng = np.random.default_rng(n_patients)
    sizes = np.resize([1, 2, 1, 4], n_patients)
    patients = np.repeat(np.arange(n_patients), sizes)
    shares = np.full((1000, n_patients), 0.8)
    if correlation > 0:
        total = 1 / correlation - 1
        shares = rng.beta(
            a=0.8 * total,
            b=0.2 * total,
            size=shares.shape,
        )
    uniform = rng.random((1000, len(patients)))
    covered = []
    for right in uniform < shares[:, patients]:
        interval = proportion(right, patients)
        covered.append(interval.low <= 0.8 <= interval.high)
    coverage = np.mean(covered)
    assert coverage > 0.93
    if n_patients >= 30:
        assert coverage < 0.98


def ratio(sums, sizes, axis):
    return sums.sum(axis) / sizes.sum(axis)


def test_bootstrap_mean_equals_that_of_scipy():
    rng = np.random.default_rng(0)
    patients = rng.integers(30, size=120)
    values = rng.normal(size=120) + patients % 3
    sums = np.bincount(patients, values)
    sizes = np.bincount(patients)
    reference = stats.bootstrap(
        (sums, sizes),
        ratio,
        paired=True,
        method="percentile",
        random_state=1,
    )
    interval = bootstrap_mean(values, patients)
    assert interval.value == approx(values.mean())
    ends = (interval.low, interval.high)
    assert ends == approx(reference.confidence_interval, abs=0.02)


def test_auc_interval_equals_a_bootstrap_of_repeated_images():
    """By sums of ranks, of 13 patients with 3 images each and scores with ties."""
    rng = np.random.default_rng(2)
    patients = np.arange(39) // 3
    y_true = np.arange(39) % 5 == 0
    y_score = rng.random(39) + 0.3 * y_true
    y_score = y_score.round(1)

    images = np.arange(39).reshape(13, 3)
    draws = [np.repeat(images, k, axis=0).ravel() for k in bootstrap_counts(13)]
    positive = y_true[draws]
    ranks = stats.rankdata(y_score[draws], axis=1)
    n_positive = positive.sum(axis=1)
    n_pairs = n_positive * (39 - n_positive)
    surplus = (ranks * positive).sum(axis=1) - n_positive * (n_positive + 1) / 2
    areas = surplus[n_pairs > 0] / n_pairs[n_pairs > 0]

    interval = bootstrap_auc(y_true, y_score, patients)
    assert interval.value == approx(roc_auc_score(y_true, y_score))
    assert interval.low == approx(np.quantile(areas, 0.025))
    assert interval.high == approx(np.quantile(areas, 0.975))


def test_draws_without_a_class_are_dropped():
    """The only draws with pairs are those of both patients, and they are equal."""
    interval = bootstrap_auc([0, 1, 1], [0.5, 0.1, 0.9], list("abb"))
    assert interval == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize("interval", [proportion, bootstrap_mean])
@pytest.mark.parametrize(
    ("values", "patients"),
    [
        ([], []),
        ([1, 0, 1], ["a", "b"]),
        ([[1], [0]], ["a", "b"]),
    ],
)
def test_values_that_do_not_fit_are_refused(interval, values, patients):
    with pytest.raises(ValueError):
        interval(values, patients)


def test_auc_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        bootstrap_auc([1, 1], [0.2, 0.3], ["a", "b"])


@pytest.mark.parametrize("patients", [["a", "b", "c"], ["a", "b"]])
def test_scores_that_do_not_fit_are_refused(patients):
    y_score = np.arange(5 - len(patients))
    with pytest.raises(IndexError):
        bootstrap_auc([0, 1, 1], y_score, patients)
