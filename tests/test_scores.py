"""Scores against scikit-learn and hand counts."""

import numpy as np
import pytest
from pytest import approx
from sklearn import metrics

from utils.intervals import bootstrap_auc, proportion
from utils.scores import (
    accuracy_table,
    detector_scores,
    image_losses,
    predicted_labels,
)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_losses_are_cross_entropies_and_labels_the_most_probable(n_classes):
    rng = np.random.default_rng(0)
    columns = rng.dirichlet(np.ones(n_classes), size=40)
    labels = np.arange(40) % n_classes
    losses = -np.log(columns[np.arange(40), labels])
    assert losses.mean() == approx(metrics.log_loss(labels, columns))
    most_probable = columns.argmax(axis=1)
    forms = [columns]
    if n_classes == 2:
        forms.append(columns[:, 1])
        forms.append(columns[:, [1]])
    for p in forms:
        assert image_losses(labels, p) == approx(losses)
        assert np.array_equal(predicted_labels(p), most_probable)


def test_one_output_is_the_probability_of_label_1():
    """Covid is label 0 and normal is label 1."""
    p_normal = np.array([[0.98], [0.02]])
    assert predicted_labels(p_normal).tolist() == [1, 0]
    losses = image_losses([1, 1], p_normal)
    expected = -np.log([0.98, 0.02])
    assert losses == approx(expected)


def test_loss_of_a_saturated_network_is_finite():
    """An output of 0 counts as 2^-23, the precision of float32."""
    p = np.zeros((2, 1), dtype="float32")
    losses = image_losses([0, 1], p)
    largest = 23 * np.log(2)
    assert losses == approx([2**-23, largest])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.2, np.nan], "between 0 and 1"),
        ([0, 1], [1.2, 0.1], "between 0 and 1"),
        ([0, 1, 1], [0.2, 0.5], "do not fit"),
        ([[0], [1]], [0.2, 0.5], "do not fit"),
    ],
)
def test_image_losses_refuse_bad_input(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        image_losses(labels, probabilities)


def test_accuracy_table_by_hand():
    right = np.array([True, False, True, True, True])
    patients = np.array(list("aabbc"))
    groups = {
        "all": patients != "",
        "without c": patients != "c",
        "none": patients == "",
    }
    table = accuracy_table(right, patients, groups)
    counts = table[["correct", "images", "patients"]]
    assert list(counts.index) == ["all", "without c"]
    assert counts.loc["all"].tolist() == [4, 5, 3]
    assert counts.loc["without c"].tolist() == [3, 4, 2]
    assert all(counts.dtypes == "int64")
    accuracy = table.loc["without c", "accuracy"]
    assert accuracy == proportion(right[:4], patients[:4])


def test_detector_scores_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y_true = rng.integers(2, size=60)
    y_score = rng.random(60) + 0.3 * y_true
    patients = np.arange(60) // 2
    scores = detector_scores(
        y_true,
        y_score,
        patients,
        threshold=0.7,
    )
    detected = y_score >= 0.7
    sensitivity = metrics.recall_score(y_true, detected)
    assert scores["sensitivity"].value == approx(sensitivity)
    specificity = metrics.recall_score(y_true, detected, pos_label=0)
    assert scores["specificity"].value == approx(specificity)
    assert scores["AUC"] == bootstrap_auc(y_true, y_score, patients)


def test_detector_of_covid_scores_label_0():
    """One of four covid images is missed, and neither of two normal ones."""
    labels = np.repeat([0, 1], [4, 2])
    p_normal = np.array([0.1, 0.2, 0.5, 0.9, 0.8, 0.95])
    patients = np.arange(6)
    scores = detector_scores(labels == 0, 1 - p_normal, patients)
    assert scores["sensitivity"] == proportion([1, 1, 1, 0], patients[:4])
    assert scores["specificity"] == proportion([1, 1], patients[4:])
    assert scores["AUC"].value == 7 / 8
    predicted = predicted_labels(p_normal)
    assert np.sum(predicted == labels) == 5


def test_detector_scores_need_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        detector_scores([1, 1], [0.2, 0.7], ["a", "b"])
