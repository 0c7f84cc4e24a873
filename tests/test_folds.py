"""Folds that never split a patient, and predictions that never met one before."""

import numpy as np
import pytest
from pytest import approx
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from utils.folds import grouped_folds, linear_probe, validation_split


def uneven_classes(seed):
    """Labels and patients of about 160 images, one to four of each patient."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=65)
    labels = np.repeat(np.arange(65) < 35, sizes).astype(int)
    patients = np.repeat(np.arange(65), sizes)
    shuffled = rng.permutation(len(labels))
    return labels[shuffled], patients[shuffled]


@pytest.mark.parametrize("seed", range(5))
def test_folds_never_split_a_patient_and_keep_the_shares(seed):
    labels, patients = uneven_classes(seed)
    images = list(range(len(labels)))
    folds = grouped_folds(labels, patients, n_splits=5, seed=seed)
    held_out = [fold.held_out for fold in folds]
    assert sorted(np.concatenate(held_out)) == images
    for fold in folds:
        both = [*fold.train, *fold.held_out]
        assert sorted(both) == images
        assert np.all(np.diff(fold.train) > 0)
        assert np.all(np.diff(fold.held_out) > 0)
        shared = set(patients[fold.train]) & set(patients[fold.held_out])
        assert not shared
        share = labels[fold.held_out].mean()
        assert share == approx(labels.mean(), abs=0.1)
        assert len(fold.held_out) == approx(len(images) / 5, rel=0.3)


def test_partition_is_that_of_earlier_versions():
    labels = np.repeat([0, 1], [9, 8])
    patients = [*"aabcddeff", *"gghiijkl"]
    folds = grouped_folds(labels, patients, n_splits=3, seed=542)
    held_out = [fold.held_out.tolist() for fold in folds]
    assert held_out == [
        [2, 7, 8, 12, 13, 16],
        [0, 1, 3, 9, 10, 15],
        [4, 5, 6, 11, 14],
    ]


def test_seed_decides_the_partition():
    labels, patients = uneven_classes(0)
    partitions = []
    for seed in (1, 1, 2):
        folds = grouped_folds(labels, patients, seed=seed)
        partitions.append(folds[0].held_out.tolist())
    assert partitions[0] == partitions[1]
    assert partitions[0] != partitions[2]


def test_validation_split_is_one_of_five_folds():
    labels, patients = uneven_classes(0)
    split = validation_split(labels, patients, seed=3)
    folds = grouped_folds(labels, patients, seed=3)
    candidates = [fold.held_out.tolist() for fold in folds]
    assert split.held_out.tolist() in candidates


def test_validation_split_is_not_always_the_first_fold():
    """The splitter puts the patient with most images into its first fold."""
    sizes = [6] + [1] * 30 + [5] + [2] * 30
    patients = np.repeat(np.arange(62), sizes)
    labels = (patients >= 31).astype(int)
    with_largest = 0
    for seed in range(20):
        split = validation_split(labels, patients, seed=seed)
        with_largest += 0 in split.held_out
    assert 1 <= with_largest <= 10  # 4 expected


def test_too_few_patients_are_refused():
    labels = np.repeat([0, 1], [9, 4])
    patients = [*range(9), *"xxyy"]
    with pytest.raises(ValueError, match="Class 1 has 2 patients, too few for 3"):
        grouped_folds(labels, patients, n_splits=3)


def test_folds_by_patient_give_twins_no_advantage():
    """Nearest neighbours recognise every patient, and guess the class of new ones.

    The features of 40 patients with 3 images tell the patient and not the class.
    """
    rng = np.random.default_rng(0)
    twins = np.repeat(np.arange(40), 3)
    centres = rng.normal(size=(40, 8))
    features = centres[twins] + rng.normal(scale=0.01, size=(120, 8))
    labels = twins % 2
    estimator = KNeighborsClassifier(n_neighbors=1)
    accuracies = []
    for patients in (twins, np.arange(120)):
        folds = grouped_folds(labels, patients)
        predicted = cross_val_predict(estimator, features, labels, cv=folds)
        accuracies.append(np.mean(predicted == labels))
    assert accuracies[0] < 0.7
    assert accuracies[1] > 0.95


def test_linear_probe_by_hand():
    """Two equal features have one principal component, z = -√2 or √2.

    Logistic regression without intercept has w = C n √2 / (1 + exp(w √2)).
    """
    features = np.repeat([[3.0, 30.0], [5.0, 50.0]], 20, axis=0)
    labels = np.repeat([0, 1], 20)
    probe = linear_probe().fit(features, labels)
    p = probe.predict_proba([[5, 50]])[0, 1]
    root = np.sqrt(2)
    w = np.log(p / (1 - p)) / root
    expected = 0.01 * 40 * root / (1 + np.exp(w * root))
    assert w == approx(expected, rel=1e-3)
