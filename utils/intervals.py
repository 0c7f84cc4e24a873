"""Confidence intervals over patients, as the images of a patient are not independent.

`proportion` is for what is right or wrong (accuracy, sensitivity, specificity), and the
bootstrap over patients is for means of losses and for areas under the ROC curve.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A score with the ends of its confidence interval: `0.944 [0.742, 0.990]`."""

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of k successes in n independent trials (Wilson, 1927)."""
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a proportion.")
    quantile = stats.norm.ppf((1 + confidence) / 2)
    return _score_interval(k / n, n, quantile)


def proportion(
    right: ArrayLike, patients: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Share of images that are right, with an interval over patients.

    Wilson's formula with the effective number of images in place of n (n divided by
    the design effect; Kish, 1965), and with Student's t of the patients less one in
    place of the normal quantile, because the design effect is an estimate.

    Parameters
    ----------
    right : bool [n], or float [n], the share of repeated fits that are right
    patients : [n], a name or number of the patient of each image
    """
    sums = patient_sums(right, patients)
    sizes = patient_sums(np.ones(len(patients)), patients)
    share = sums.sum() / sizes.sum()
    if len(sizes) == 1:
        return Interval(share, 0.0, 1.0)

    quantile = stats.t.ppf((1 + confidence) / 2, df=len(sizes) - 1)
    n_effective = _effective_number(sums, sizes)
    interval = _score_interval(share, n_effective, quantile)
    # By chance, a few misses can make the design effect look small. They must not
    # raise the lower end above that of no miss, nor a few hits lower the upper end.
    limit = _score_interval(1, len(sizes), quantile).low
    return Interval(
        value=share,
        low=min(interval.low, limit),
        high=max(interval.high, 1 - limit),
    )


def bootstrap_mean(
    values: ArrayLike,
    patients: ArrayLike,
    draws: int = 20_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Mean of values [n], such as losses, with its bootstrap interval over patients.

    If all values are equal, so are the ends: `proportion` is for what is right or
    wrong.
    """
    sums = patient_sums(values, patients)
    sizes = patient_sums(np.ones(len(patients)), patients)
    counts = bootstrap_counts(len(sizes), draws, seed)
    means = counts @ sums / (counts @ sizes)
    return _percentile_interval(np.mean(values), means, confidence)


def bootstrap_auc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    patients: ArrayLike,
    draws: int = 20_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Area under the ROC curve with its bootstrap interval over patients.

    Draws without images of one class are dropped. If all draws agree, as with a perfect
    score, the interval is that of a proportion of the smaller class's patients.

    Parameters
    ----------
    y_true : bool [n], True for the class that should have the higher scores
    y_score : float [n]
    """
    positive = np.ravel(y_true).astype(bool)
    scores = np.ravel(y_score).astype("float64")
    if positive.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores do not fit {len(positive)} labels.")
    pairs = np.outer(positive, ~positive)
    if not pairs.any():
        raise ValueError("An area under the ROC curve needs images of both classes.")

    # The share of pairs in the right order, ties as halves (Mann and Whitney, 1947).
    gaps = np.subtract.outer(scores, scores)
    in_order = pairs * (1 + np.sign(gaps)) / 2
    value = in_order[pairs].mean()
    names, patient = np.unique(patients, return_inverse=True)
    weights = bootstrap_counts(len(names), draws, seed)[:, patient]
    n_in_order = (weights @ in_order * weights).sum(axis=1)
    n_positive = weights @ positive
    n_negative = weights @ ~positive
    n_pairs = n_positive * n_negative
    complete = n_pairs > 0
    areas = n_in_order[complete] / n_pairs[complete]
    interval = _percentile_interval(value, areas, confidence)
    if interval.low < interval.high:
        return interval

    positive_patients = set(patient[positive])
    negative_patients = set(patient[~positive])
    n_smaller = min(len(positive_patients), len(negative_patients))
    equal = np.full(n_smaller, value)
    return proportion(equal, np.arange(n_smaller), confidence)


def patient_sums(values: ArrayLike, patients: ArrayLike) -> np.ndarray:
    """Sums of values [n] over the images of each patient: float64 [patients]."""
    if len(patients) == 0:
        raise ValueError("There are no images.")
    _, patient = np.unique(patients, return_inverse=True)
    return np.bincount(patient, weights=values)


def bootstrap_counts(n_patients: int, draws: int, seed: int) -> np.ndarray:
    """How often each patient is in each draw: float64 [draws, patients]."""
    equal_shares = np.full(n_patients, 1 / n_patients)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_patients, equal_shares, size=draws)
    return counts.astype("float64")


def _score_interval(share, n, quantile):
    """Wilson's interval of a share of n, as in Newcombe (1998), method 3."""
    weight = quantile**2 / n
    variance = share * (1 - share) / n + weight / n / 4
    centre = (share + weight / 2) / (1 + weight)
    half_width = quantile * np.sqrt(variance) / (1 + weight)
    return Interval(
        value=share,
        low=max(centre - half_width, 0.0),
        high=min(centre + half_width, 1.0),
    )


def _effective_number(sums, sizes):
    """Number of independent images that would tell as much as these."""
    n_patients = len(sizes)
    n_images = sizes.sum()
    share = sums.sum() / n_images
    binomial_variance = n_images * share * (1 - share)
    if binomial_variance == 0:
        return n_patients
    # Variance of a sum over clusters (Cochran, 1977, equation 6.13).
    residuals = sums - share * sizes
    variance = n_patients * np.var(residuals, ddof=1)
    design_effect = variance / binomial_variance
    # At least 1, and at most what equal answers within every patient would give.
    largest = np.sum(sizes**2) / n_images
    return n_images / np.clip(design_effect, 1, largest)


def _percentile_interval(value, draws, confidence):
    """Interval between quantiles of bootstrap draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, low, high)
