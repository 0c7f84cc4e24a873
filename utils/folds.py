"""Folds that never split the images of a patient, and predictions on held-out folds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


@dataclass(frozen=True, eq=False)
class Fold:
    """Sorted positions of images to train on, and of images that are held out."""

    train: np.ndarray
    held_out: np.ndarray


def grouped_folds(
    labels: ArrayLike, patients: ArrayLike, n_splits: int = 5, seed: int = 542
) -> list[Fold]:
    """Folds by patient that keep the shares of the classes.

    Parameters
    ----------
    labels : int [n]
    patients : [n], a name or number of the patient of each image
    """
    labels = np.asarray(labels)
    patients = np.asarray(patients)
    for label in np.unique(labels):
        n_patients = len(np.unique(patients[labels == label]))
        if n_patients < n_splits:
            raise ValueError(
                f"Class {label} has {n_patients} patients, too few for {n_splits} "
                f"folds. Remedy: at least {n_splits} patients a class, or fewer folds."
            )

    # Shuffled here, because the shuffle of StratifiedGroupKFold loses the shares of
    # the classes in scikit-learn before 1.7.
    names, patient = np.unique(patients, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    splitter = StratifiedGroupKFold(n_splits)
    folds = []
    for train, held_out in splitter.split(labels, labels, shuffled[patient]):
        folds.append(Fold(np.sort(train), np.sort(held_out)))
    return folds


def validation_split(
    labels: ArrayLike, patients: ArrayLike, fraction: float = 0.2, seed: int = 542
) -> Fold:
    """One of the `grouped_folds`, drawn at random, that holds out about a fraction.

    The fraction must be 1 / k for a whole k from 2, such as 0.5, 0.33, 0.25 or 0.2.
    """
    n_splits = min(range(2, 100), key=lambda k: abs(1 / k - fraction))
    if not math.isclose(fraction, 1 / n_splits, abs_tol=0.005):
        raise ValueError(
            f"Folds cannot hold out {fraction}. "
            f"Remedy: the nearest fraction, 1 / {n_splits}."
        )
    folds = grouped_folds(labels, patients, n_splits, seed)
    # Not always the first: it holds the patients with most images, whatever the seed.
    position = np.random.default_rng([seed, 1]).integers(n_splits)
    return folds[position]


def linear_probe() -> Pipeline:
    """Logistic regression on principal components of features, not yet fitted."""
    return make_pipeline(
        StandardScaler(),
        PCA(n_components=0.95),
        LogisticRegression(C=0.01, solver="newton-cholesky"),
    )


def held_out_probabilities(
    estimator: BaseEstimator,
    features: ArrayLike,
    labels: ArrayLike,
    folds: Sequence[Fold],
) -> np.ndarray:
    """Probabilities by clones of the estimator that never met the image's patient.

    Parameters
    ----------
    features : float [n, d]
    labels : int [n]

    Returns
    -------
    numpy.ndarray
        float64 [n, classes], NaN where no fold holds the image out.
    """
    features = np.asarray(features)
    labels = np.asarray(labels)

    def predict(fold):
        fitted = clone(estimator).fit(features[fold.train], labels[fold.train])
        return fitted.classes_, fitted.predict_proba(features[fold.held_out])

    probabilities = np.full((len(labels), labels.max() + 1), np.nan)
    predictions = Parallel()(delayed(predict)(fold) for fold in folds)
    for fold, (classes, predicted) in zip(folds, predictions, strict=True):
        # A class that is not in the training part has no column.
        probabilities[fold.held_out] = 0
        probabilities[np.ix_(fold.held_out, classes)] = predicted
    return probabilities
