"""Comparisons of classifiers on the same images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from .intervals import patient_sums, proportion
from .scores import image_losses, predicted_labels

SIGNIFICANCE = 0.05


class McNemar(NamedTuple):
    """Numbers of images that only one of two classifiers has right, and the p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> McNemar:
    """Exact two-sided test of McNemar (1947) for bool [n] each.

    It assumes that images are independent; `sign_flip_test` does not.
    """
    only_a = int(np.sum(right_a & ~right_b))
    only_b = int(np.sum(right_b & ~right_a))
    smaller = min(only_a, only_b)
    tail = float(stats.binom.cdf(smaller, n=only_a + only_b, p=0.5))
    return McNemar(only_a, only_b, p=min(2 * tail, 1.0))


def holm(p: ArrayLike) -> np.ndarray:
    """P-values corrected for multiple testing (Holm, 1979), in their order."""
    p = np.asarray(p, dtype="float64")
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    increasing = np.maximum.accumulate(factors * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(increasing, 1)
    return adjusted


def sign_flip_test(differences: ArrayLike, patients: ArrayLike) -> float:
    """Two-sided p-value of the hypothesis that differences [n] are symmetric around 0.

    The signs of each patient's images are flipped together (Fisher, 1935): in all ways
    for up to 14 patients, otherwise in 20,000 random ways. The observed signs count as
    one of the draws, so p is at least 2 / 20,001 (Phipson and Smyth, 2010).
    """
    sums = patient_sums(differences, patients)
    test = stats.permutation_test(
        [sums],
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        batch=1000,
        random_state=0,
    )
    return test.pvalue


def comparison_table(
    probabilities: Mapping[str, ArrayLike],
    labels: ArrayLike,
    patients: ArrayLike,
    reference: str,
) -> pd.DataFrame:
    """Compare classifiers with one of them on the same images, a row each.

    Parameters
    ----------
    probabilities : name of each classifier -> probabilities as in `image_losses`
    labels : int [n]
    patients : [n]
    reference : name of the classifier with which the others are compared

    Returns
    -------
    pandas.DataFrame
        Accuracy (an Interval) and mean loss; how many images are newly correct and
        newly wrong; p-values of both scores (`sign_flip_test`), each adjusted by Holm's
        method; missing in the row of the reference.
    """
    reference_right = predicted_labels(probabilities[reference]) == labels
    reference_losses = image_losses(labels, probabilities[reference])
    rows = {}
    for name, p in probabilities.items():
        right = predicted_labels(p) == labels
        losses = image_losses(labels, p)
        rows[name] = {"accuracy": proportion(right, patients), "loss": losses.mean()}
        if name != reference:
            gain = right.astype(int) - reference_right
            rows[name] |= {
                "newly correct": np.sum(gain > 0),
                "newly wrong": np.sum(gain < 0),
                "p accuracy": sign_flip_test(gain, patients),
                "p loss": sign_flip_test(losses - reference_losses, patients),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")

    others = table.index != reference
    for column in ("p accuracy", "p loss"):
        table.loc[others, column] = holm(table.loc[others, column])
    counts = {"newly correct": "Int64", "newly wrong": "Int64"}
    return table.astype(counts)


def agreement(holds: Sequence[bool]) -> str:
    """Whether a statement holds in several fits.

    Returns "reproduced" if it does in all, "not reproduced" if in none, and otherwise
    "undecided".
    """
    if all(holds):
        return "reproduced"
    if any(holds):
        return "undecided"
    return "not reproduced"


def verdict(difference: float, p: float, expected: str) -> str:
    """Whether a difference is what was "expected": "higher", "lower" or "same".

    Returns "reproduced", "not reproduced", or "undecided" if p is not below 0.05. No
    p-value can show that two things are the same.
    """
    if expected not in ("higher", "lower", "same"):
        raise ValueError(f'expected must be "higher", "lower" or "same": {expected!r}')
    if not p < SIGNIFICANCE:
        return "undecided"
    if expected == "higher" and difference > 0:
        return "reproduced"
    if expected == "lower" and difference < 0:
        return "reproduced"
    return "not reproduced"
