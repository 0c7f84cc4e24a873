"""Scores of classifiers, with intervals over patients."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .intervals import Interval, bootstrap_auc, proportion

# Saturated float32 outputs count as the smallest number that they can differ from 1 by,
# so an image's loss is 15.9 at most.
SMALLEST = np.finfo("float32").eps


def class_columns(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities as float64 [n, classes]: a single column is that of label 1."""
    columns = np.asarray(probabilities, dtype="float64")
    columns = columns.reshape(len(columns), -1)
    if not np.all((columns >= 0) & (columns <= 1 + 1e-6)):
        raise ValueError("Probabilities must lie between 0 and 1.")
    if columns.shape[1] == 1:
        columns = np.hstack([1 - columns, columns])
    return columns


def image_losses(labels: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
    """Cross-entropy of each image: float64 [n].

    Parameters
    ----------
    labels : int [n]
    probabilities : [n] or [n, 1], the probability of label 1, or [n, classes]
    """
    columns = class_columns(probabilities)
    labels = np.asarray(labels, dtype=int)
    if labels.shape != columns[:, 0].shape:
        raise ValueError(f"{labels.shape} labels do not fit {len(columns)} images.")
    p_true = columns[np.arange(len(labels)), labels]
    return -np.log(np.clip(p_true, SMALLEST, 1 - SMALLEST))


def predicted_labels(probabilities: ArrayLike) -> np.ndarray:
    """The most probable label of each image, int [n], of the same probabilities."""
    return class_columns(probabilities).argmax(axis=1)


def accuracy_table(
    right: np.ndarray, patients: np.ndarray, groups: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Accuracy of groups of images, a row each; groups without images are left out.

    Parameters
    ----------
    right : bool [n]
    patients : [n]
    groups : name of each row -> bool [n], the images that belong to it
    """
    rows = {}
    for name, members in groups.items():
        if not members.any():
            continue
        rows[name] = {
            "correct": right[members].sum(),
            "images": members.sum(),
            "patients": len(set(patients[members])),
            "accuracy": proportion(right[members], patients[members]),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def detector_scores(
    y_true: ArrayLike,
    y_score: ArrayLike,
    patients: ArrayLike,
    threshold: float = 0.5,
) -> dict[str, Interval]:
    """Sensitivity, specificity and area under the ROC curve of a detector.

    Parameters
    ----------
    y_true : bool or int [n], 1 for what is to be detected
    y_score : float [n]; what reaches the threshold counts as detected
    patients : [n]
    """
    positive = np.asarray(y_true, dtype=bool)
    detected = np.ravel(y_score) >= threshold
    patients = np.asarray(patients)
    auc = bootstrap_auc(positive, y_score, patients)
    return {
        "sensitivity": proportion(detected[positive], patients[positive]),
        "specificity": proportion(~detected[~positive], patients[~positive]),
        "AUC": auc,
    }
