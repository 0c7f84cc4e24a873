"""Comparisons of classifiers on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from .intervals import patient_sums, proportion
from .scores import image_losses, predicted_labels

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class McNemar:
    """Numbers of images that only one of two classifiers has right, and the p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Exact two-sided test of McNemar (1947) for bool [n] each.

    It takes images as independent; `sign_flip_test` does not.
    """
    right_a = np.asarray(right_a, dtype=bool)
    right_b = np.asarray(right_b, dtype=bool)
    only_a = int(np.sum(right_a & ~right_b))
    only_b = int(np.sum(right_b & ~right_a))
    n_different = only_a + only_b
    if n_different == 0:
        return McNemar(only_a, only_b, p=1.0)
    test = stats.binomtest(only_a, n_different, p=0.5)
    return McNemar(only_a, only_b, p=float(test.pvalue))


def holm(p: ArrayLike) -> np.ndarray:
    """P-values adjusted for their number as by Holm (1979), in their order."""
    p = np.asarray(p, dtype="float64")
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    increasing = np.maximum.accumulate(factors * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(increasing, 1)
    return adjusted


def sign_flip_test(
    differences: ArrayLike,
    patients: ArrayLike,
    draws: int = 20_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the hypothesis that differences [n] are symmetric around 0.

    The signs of each patient's images are flipped together (Fisher, 1935). The
    observed signs count as one of the draws, so p is at least 1 / (1 + draws) (Phipson
    and Smyth, 2010).
    """
    sums = patient_sums(differences, patients)
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size=(draws, len(sums)))
    # Sums that differ only by rounding count as equal.
    observed = abs(sums.sum()) * (1 - 1e-9)
    n_smaller = np.sum(np.abs(signs @ sums) < observed)
    return 1 - n_smaller / (1 + draws)


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
        newly wrong; p-values of the accuracy (McNemar) and of the loss (flipped signs),
        each adjusted by Holm's method; missing in the row of the reference.
    """
    right = {}
    losses = {}
    table = pd.DataFrame(index=list(probabilities))
    for name, p in probabilities.items():
        right[name] = predicted_labels(p) == labels
        losses[name] = image_losses(labels, p)
    table["accuracy"] = [proportion(row, patients) for row in right.values()]
    table["loss"] = [row.mean() for row in losses.values()]

    others = [name for name in probabilities if name != reference]
    for name in others:
        test = mcnemar(right[name], right[reference])
        table.loc[name, "newly correct"] = test.only_a
        table.loc[name, "newly wrong"] = test.only_b
        table.loc[name, "p accuracy"] = test.p
        differences = losses[name] - losses[reference]
        table.loc[name, "p loss"] = sign_flip_test(differences, patients)
    for column in ("p accuracy", "p loss"):
        table.loc[others, column] = holm(table.loc[others, column])
    counts = {"newly correct": "Int64", "newly wrong": "Int64"}
    return table.astype(counts)


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
