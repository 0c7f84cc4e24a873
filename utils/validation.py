"""Cross-validation of scikit-learn estimators, repeated, by patient, and against permuted labels."""

from dataclasses import replace

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from .data import grouped_folds
from .evaluation import bootstrap_by_group


def held_out_probabilities(estimator, features, image_set, n_splits, seed, repeats=1, grouped=True):
    """Probabilities of each image by estimators that did not see it, nor, if `grouped`, its patient.

    Parameters
    ----------
    estimator : scikit-learn classifier, fitted anew (as a clone) in every fold.
    features : float [n, d], in step with `image_set`.
    n_splits, seed, repeats : each repeat draws its own folds, from seed, seed + 1, …
    grouped : False takes every image for a patient of its own, as most submissions do.

    Returns
    -------
    float64 [repeats, n, classes]
    """
    if not grouped:
        image_set = replace(image_set, patients=image_set.files)
    calls = (
        delayed(cross_val_predict)(
            clone(estimator),
            features,
            image_set.labels,
            cv=grouped_folds(image_set, n_splits, seed + repeat),
            method="predict_proba",
        )
        for repeat in range(repeats)
    )
    return np.stack(Parallel()(calls))


def repeated_scores(probabilities, labels, groups, resamples=500, seed=0):
    """Scores of a repeated cross-validation: their mean over the repeats, bootstrapped over patients.

    Parameters
    ----------
    probabilities : [repeats, n, classes]; labels : int [n]; groups : [n], the patient of each image.

    Returns
    -------
    dict of Interval: "accuracy", "macro F1" and "AUC" (area under the ROC curve; of each class against the
    rest, averaged, where there are more than two).
    """
    labels, predicted = np.asarray(labels), probabilities.argmax(-1)
    classes = range(probabilities.shape[-1])

    def accuracy(rows):
        return (predicted[:, rows] == labels[rows]).mean()

    def macro_f1(rows):
        return np.mean(
            [
                f1_score(labels[rows], p[rows], labels=classes, average="macro", zero_division=0)
                for p in predicted
            ]
        )

    def auc(rows):
        if any(len(np.unique(labels[rows] == k)) < 2 for k in classes):
            return np.nan
        # With two classes both terms are equal.
        return np.mean([roc_auc_score(labels[rows] == k, p[rows, k]) for p in probabilities for k in classes])

    scores = {"accuracy": accuracy, "macro F1": macro_f1, "AUC": auc}
    return {name: bootstrap_by_group(score, groups, resamples, seed=seed) for name, score in scores.items()}


def permutation_test(estimator, features, image_set, n_splits, seed, permutations=100):
    """Does the estimator score better on the true labels than on labels shuffled between patients?

    The images of a patient keep one common label, because shuffled images would be easier to tell from a
    patient's other images than shuffled patients are.

    Returns
    -------
    observed : float, accuracy on the true labels. null : float [permutations], on shuffled ones.
    p : (1 + number of shuffled accuracies not below the observed one) / (1 + permutations), Phipson and
    Smyth (2010).
    """

    def accuracy(labels):
        shuffled = replace(image_set, labels=labels)
        p = held_out_probabilities(estimator, features, shuffled, n_splits, seed)[0]
        return (p.argmax(1) == labels).mean()

    # A patient with images of two classes counts as two here, so that every class keeps its units.
    units, unit = np.unique(
        np.char.add(image_set.patients.astype(str), image_set.labels.astype(str)), return_inverse=True
    )
    of_unit = np.empty(len(units), image_set.labels.dtype)
    of_unit[unit] = image_set.labels
    rng = np.random.default_rng(seed)
    draws = (rng.permutation(of_unit)[unit] for _ in range(permutations))
    null = np.array(Parallel()(delayed(accuracy)(labels) for labels in draws))
    observed = accuracy(image_set.labels)
    return float(observed), null, float((1 + (null >= observed).sum()) / (1 + permutations))
