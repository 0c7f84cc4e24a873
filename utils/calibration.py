"""Do probabilities mean what they say? Nothing here knows of Keras."""

from typing import NamedTuple

import numpy as np

from .evaluation import Interval, wilson


class Bin(NamedTuple):
    """Images whose confidence lies in one range: their mean confidence, how many are right, their number."""

    confidence: float
    accuracy: Interval
    count: int


def brier(targets, probabilities):
    """The Brier score (Brier, 1950): mean over images of the squared distance to the one-hot target.

    Both are [n, classes]. 0 is perfect, 2 certain and wrong; with two classes it is twice the score that
    scikit-learn gives for the probability of one of them.
    """
    return float(np.mean(np.sum((np.asarray(probabilities, "float64") - targets) ** 2, axis=1)))


def reliability(confidence, right, n_bins=5, lowest=0.5):
    """Compare confidence with accuracy, in bins of equal width from `lowest` to 1; empty bins are left out.

    Parameters
    ----------
    confidence : [n], the probability given to the predicted class. right : [n] of bool.
    lowest : the least confidence possible, 1 / classes.

    Returns
    -------
    list of Bin, by confidence; ValueError if a confidence lies outside `lowest`..1.
    """
    confidence, right = np.asarray(confidence, "float64"), np.asarray(right, bool)
    slack = 1e-6  # float32 probabilities do not quite add up to 1
    if not (len(confidence) and confidence.min() >= lowest - slack and confidence.max() <= 1 + slack):
        raise ValueError(f"confidences must lie between {lowest:g} and 1, and there must be some")
    position = (confidence - lowest) / (1 - lowest) * n_bins
    index = np.clip(position.astype(int), 0, n_bins - 1)
    bins = [np.flatnonzero(index == k) for k in range(n_bins)]
    return [
        Bin(float(confidence[rows].mean()), wilson(right[rows].sum(), len(rows)), len(rows))
        for rows in bins
        if len(rows)
    ]


def calibration_error(bins):
    """Expected calibration error (Naeini et al., 2015): mean gap of confidence and accuracy, by count."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy.value - b.confidence) for b in bins) / total
