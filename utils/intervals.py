"""95 % confidence intervals over patients: a patient's images are not independent.

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


def proportion(right: ArrayLike, patients: ArrayLike) -> Interval:
    """Share of images that are right, with an interval over patients.

    Wilson's score interval (1927) with the effective number of images in place of n (n
    divided by the design effect; Kish, 1965), and with Student's t of the patients less
    one in place of the normal quantile, because the design effect is an estimate.

    Parameters
    ----------
    right : bool [n], or float [n], the share of repeated fits that are right
    patients : [n], a name or number of the patient of each image
    """
    sums = patient_sums(right, patients)
    _, sizes = np.unique(patients, return_counts=True)
    share = sums.sum() / sizes.sum()
    n_patients = len(sizes)
    if n_patients == 1:
        return Interval(share, 0.0, 1.0)

    t = stats.t.ppf(0.975, df=n_patients - 1)
    # Wilson's ends are the roots of (share - end)² = weight end (1 - end).
    weight = t**2 / _effective_number(sums, sizes)
    low, high = np.sort(np.roots([1 + weight, -2 * share - weight, share**2]))
    # By chance, a few misses can make the design effect look small. They must not
    # raise the lower end above that of no miss, nor a few hits lower the upper end.
    limit = n_patients / (n_patients + t**2)
    return Interval(share, min(low, limit), max(high, 1 - limit))


def bootstrap_mean(values: ArrayLike, patients: ArrayLike) -> Interval:
    """Mean of values [n], such as losses, with its bootstrap interval over patients.

    If all values are equal, so are the ends: `proportion` is for what is right or
    wrong.
    """
    sums = patient_sums(values, patients)
    _, sizes = np.unique(patients, return_counts=True)
    counts = bootstrap_counts(len(sizes))
    means = counts @ sums / (counts @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(np.mean(values), low, high)


def bootstrap_auc(
    y_true: ArrayLike, y_score: ArrayLike, patients: ArrayLike
) -> Interval:
    """Area under the ROC curve with its bootstrap interval over patients.

    Draws without images of one class are dropped. If all draws agree, as with a perfect
    score, so do the ends.

    Parameters
    ----------
    y_true : bool [n], True for the class that should have the higher scores
    y_score : float [n]
    """
    positive = np.asarray(y_true, dtype=bool)
    scores = np.ravel(y_score).astype("float64")
    gaps = np.subtract.outer(scores[positive], scores[~positive])
    if gaps.size == 0:
        raise ValueError("An area under the ROC curve needs images of both classes.")

    # The share of pairs in the right order, ties as halves (Mann and Whitney, 1947).
    in_order = (1 + np.sign(gaps)) / 2
    names, patient = np.unique(patients, return_inverse=True)
    weights = bootstrap_counts(len(names))[:, patient]
    positive_weights = weights[:, positive]
    negative_weights = weights[:, ~positive]
    n_in_order = (positive_weights @ in_order * negative_weights).sum(axis=1)
    n_pairs = positive_weights.sum(axis=1) * negative_weights.sum(axis=1)
    complete = n_pairs > 0
    areas = n_in_order[complete] / n_pairs[complete]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Interval(in_order.mean(), low, high)


def patient_sums(values: ArrayLike, patients: ArrayLike) -> np.ndarray:
    """Sums of values [n] over the images of each patient: float64 [patients]."""
    if len(patients) == 0:
        raise ValueError("There are no images.")
    _, patient = np.unique(patients, return_inverse=True)
    return np.bincount(patient, weights=values)


def bootstrap_counts(n_patients: int) -> np.ndarray:
    """How often each patient is in each of 20,000 draws: int64 [draws, patients]."""
    equal_shares = np.full(n_patients, 1 / n_patients)
    rng = np.random.default_rng(0)
    return rng.multinomial(n_patients, equal_shares, size=20_000)


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
