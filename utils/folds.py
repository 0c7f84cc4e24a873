"""Folds that never split the images of a patient, and a linear classifier."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


class Fold(NamedTuple):
    """Sorted positions of images to train on, and of images that are held out.

    A list of folds is a `cv` of scikit-learn's `cross_val_predict`.
    """

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
    splits = splitter.split(labels, labels, groups=shuffled[patient])
    return [Fold(train, held_out) for train, held_out in splits]


def validation_split(labels: ArrayLike, patients: ArrayLike, seed: int) -> Fold:
    """One of five `grouped_folds`, drawn at random: it holds out about a fifth."""
    folds = grouped_folds(labels, patients, seed=seed)
    # Not always the first: it holds the patients with most images, whatever the seed.
    position = np.random.default_rng([seed, 1]).integers(len(folds))
    return folds[position]


def linear_probe() -> Pipeline:
    """Logistic regression on principal components of features, not yet fitted."""
    return make_pipeline(
        StandardScaler(),
        PCA(n_components=0.95),
        LogisticRegression(C=0.01, solver="newton-cholesky"),
    )
