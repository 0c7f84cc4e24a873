"""Scores with their uncertainty. Nothing here knows of Keras."""

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score, multilabel_confusion_matrix, roc_auc_score


class Interval(NamedTuple):
    """A score with the ends of its confidence interval; prints as `0.944 [0.742, 0.990]`."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes, n, confidence=0.95):
    """A proportion with its Wilson score interval (Wilson, 1927), from SciPy.

    Returns an Interval; ValueError if n is not positive or successes is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, interval.low, interval.high)


def binary_scores(y_true, y_score, threshold=0.5):
    """Scores of a detector at a threshold.

    Parameters
    ----------
    y_true : [n] of 0 and 1, 1 being the condition that is looked for.
    y_score : [n], the probability of the condition.

    Returns
    -------
    dict of Interval: "accuracy", "sensitivity" (share of 1 that is found), "specificity" (share of 0 that is
    passed over); and "auc", a float: the area under the ROC curve.

    Raises
    ------
    ValueError
        If lengths differ or one of the classes is absent.
    """
    y_true, y_score = np.asarray(y_true).astype(int), np.asarray(y_score, "float64")
    if y_true.shape != y_score.shape or y_true.ndim != 1:
        raise ValueError(f"y_true and y_score must be of one length, not {y_true.shape} and {y_score.shape}")
    if set(np.unique(y_true)) != {0, 1}:
        raise ValueError("y_true must hold both classes, 0 and 1")
    (tn, fp), (fn, tp) = confusion_matrix(y_true, y_score > threshold)
    return {
        "accuracy": wilson(tn + tp, len(y_true)),
        "sensitivity": wilson(tp, tp + fn),
        "specificity": wilson(tn, tn + fp),
        "auc": float(roc_auc_score(y_true, y_score)),
    }


def class_scores(y_true, y_pred, n_classes):
    """Scores of each class against the rest: a list of dict, in label order.

    "sensitivity" and "specificity" are Intervals (Wilson), "F1" is a float.
    """
    f1 = f1_score(y_true, y_pred, labels=range(n_classes), average=None, zero_division=0)
    rows = []
    for k, ((tn, fp), (fn, tp)) in enumerate(
        multilabel_confusion_matrix(y_true, y_pred, labels=range(n_classes))
    ):
        scores = {"sensitivity": wilson(tp, tp + fn), "specificity": wilson(tn, tn + fp), "F1": float(f1[k])}
        rows.append(scores)
    return rows


def mcnemar(right_a, right_b):
    """McNemar's exact test (1947) of two classifiers on the same images.

    Parameters
    ----------
    right_a, right_b : [n] of bool, which images each one classifies rightly.

    Returns
    -------
    only_a, only_b : int, images that only one of them has right. p : two-sided p-value; 1 where they agree.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n = only_a + only_b
    return only_a, only_b, float(stats.binomtest(only_a, n).pvalue) if n else 1.0


def bootstrap_by_group(score, groups, resamples=1000, confidence=0.95, seed=0):
    """Percentile interval of a score over resampled patients: images of one patient are not independent.

    Parameters
    ----------
    score : function (int array of positions) -> float; NaN where it is not defined (one class only).
    groups : [n], the patient of each image.

    Returns
    -------
    Interval, whose value is the score of all images.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = np.random.default_rng(seed)
    draws = [
        score(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]))
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(float(score(np.arange(len(groups)))), float(low), float(high))


def paired_difference(right_a, right_b, groups, seed=0):
    """How much more often a is right than b on the same images, [n] of bool each: Interval over patients."""
    difference = np.asarray(right_a, "float64") - np.asarray(right_b, "float64")
    return bootstrap_by_group(lambda rows: difference[rows].mean(), groups, seed=seed)


def per_class_accuracy(y_true, y_pred, n_classes):
    """The share of each class that is recognised (its recall): a list of Interval, in label order."""
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    return [wilson((y_pred[y_true == k] == k).sum(), (y_true == k).sum()) for k in range(n_classes)]


def pooled_validation(histories, sizes, epoch):
    """Accuracy and loss over all held-out images of a cross-validation, after an epoch counted from 1.

    Parameters
    ----------
    histories : list of dict with "val_accuracy" and "val_loss", one value an epoch; one dict a fold.
    sizes : number of held-out images of each fold.

    Returns
    -------
    accuracy : Interval (Wilson), each image being held out once.
    loss : float, mean over the images.
    """
    sizes = np.asarray(sizes)
    if not 1 <= epoch <= min(len(history["val_loss"]) for history in histories):
        raise ValueError(f"epoch {epoch} was not trained in every fold")
    accuracy = np.array([history["val_accuracy"][epoch - 1] for history in histories])
    loss = np.array([history["val_loss"][epoch - 1] for history in histories])
    return wilson(np.rint(accuracy * sizes).sum(), sizes.sum()), float(loss @ sizes / sizes.sum())


def fit_problems(history, y_pred, chance_loss):
    """What went wrong in a fit, in words; an empty list if nothing did.

    Parameters
    ----------
    history : dict with "loss", one value an epoch. y_pred : [n], predicted labels of some images.
    chance_loss : float, the loss of a model that gives every class the same probability: log(classes) for
        the cross-entropy.
    """
    first, last, problems = history["loss"][0], history["loss"][-1], []
    if len(np.unique(y_pred)) == 1:
        problems.append(f"it has collapsed: every image is called class {y_pred[0]}")
    if not last <= first:
        problems.append(f"it diverges: the training loss went from {first:.3f} to {last:.3f}")
    if not last < chance_loss:
        problems.append(f"it has learned nothing: the training loss, {last:.3f}, is no better than chance")
    return problems


def verdict(reported, interval):
    """Whether a reported value is "beaten", "met" or "missed" by a measured Interval.

    "met" means that the report's value lies within the interval: this many images cannot tell them apart.
    """
    if interval.low > reported:
        return "beaten"
    return "missed" if interval.high < reported else "met"
