"""Scores against published values, scikit-learn and hand counts; COVID-19 is the condition looked for."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from utils.evaluation import (
    Interval,
    binary_scores,
    bootstrap_by_group,
    class_scores,
    fit_problems,
    mcnemar,
    paired_difference,
    per_class_accuracy,
    pooled_validation,
    verdict,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high", "digits"),
    [(18, 18, 0.824, 1, 3), (27, 36, 0.59, 0.86, 2), (30, 36, 0.68, 0.92, 2), (33, 36, 0.78, 0.97, 2)],
)
def test_wilson_equals_published_values(successes, n, low, high, digits):
    interval = wilson(successes, n)
    assert interval.value == successes / n
    assert (round(interval.low, digits), round(interval.high, digits)) == (low, high)


def test_wilson_equals_its_formula():
    """Equation 4 of Wilson (1927), with z = 1.96 for 95 % and 2.576 for 99 %."""
    for z, confidence in ((1.959964, 0.95), (2.575829, 0.99)):
        p, n = 0.75, 36
        centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        ends = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
        assert wilson(27, 36, confidence)[1:] == pytest.approx(ends, abs=1e-6)


def test_wilson_stays_within_0_and_1_and_holds_its_value():
    for n in (1, 9, 18):
        for k in range(n + 1):
            value, low, high = wilson(np.int64(k), np.float64(n))
            assert 0 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1 and low < high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        wilson(successes, n)


def test_interval_prints_three_digits():
    assert str(Interval(17 / 18, 0.742, 0.98999)) == "0.944 [0.742, 0.990]"


def test_binary_scores_of_a_hand_made_table():
    # 4 with the condition, 3 of them found; 6 without, 5 of them passed over.
    y_true = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    y_score = [0.9, 0.8, 0.7, 0.2, 0.6, 0.5, 0.4, 0.3, 0.1, 0.0]
    scores = binary_scores(y_true, y_score)
    assert scores["sensitivity"] == wilson(3, 4)
    assert scores["specificity"] == wilson(5, 6)
    assert scores["accuracy"] == wilson(8, 10)
    # Of the 24 pairs, only the image found last ranks below any image without the condition: below four.
    assert scores["auc"] == pytest.approx(20 / 24)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_binary_scores_equal_scikit_learn(threshold):
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 60)
    y_score = np.clip(0.3 * y_true + rng.uniform(0, 0.7, 60), 0, 1)
    scores, found = binary_scores(y_true, y_score, threshold), y_score > threshold
    assert scores["accuracy"].value == pytest.approx(accuracy_score(y_true, found))
    assert scores["sensitivity"].value == pytest.approx(recall_score(y_true, found, pos_label=1))
    assert scores["specificity"].value == pytest.approx(recall_score(y_true, found, pos_label=0))
    assert scores["auc"] == pytest.approx(roc_auc_score(y_true, y_score))


def test_covid_is_label_0_and_the_model_gives_the_probability_of_normal():
    """One of four covid images is missed, no normal one is: sensitivity 3/4, specificity 1."""
    labels = np.array([0, 0, 0, 0, 1, 1])  # covid sorts before normal
    p_normal = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.95])
    scores = binary_scores(labels == 0, 1 - p_normal)
    assert scores["sensitivity"].value == 0.75 and scores["specificity"].value == 1
    assert scores["auc"] == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("y_true", "y_score", "words"),
    [
        ([1, 1], [0.2, 0.3], "both classes"),
        ([0, 0], [0.2, 0.3], "both classes"),
        ([0, 1, 2], [0.2, 0.3, 0.4], "both classes"),
        ([], [], "both classes"),
        ([0, 1, 1], [0.2, 0.3], "one length"),
        ([[0], [1]], [[0.2], [0.3]], "one length"),
    ],
)
def test_binary_scores_refuse_what_they_cannot_score(y_true, y_score, words):
    with pytest.raises(ValueError, match=words):
        binary_scores(y_true, y_score)


def test_per_class_accuracy_is_recall_in_label_order():
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 4, 50)
    y_pred = np.where(rng.random(50) < 0.6, y_true, rng.integers(0, 4, 50))
    result = per_class_accuracy(y_true, y_pred, 4)
    assert [r.value for r in result] == pytest.approx(list(recall_score(y_true, y_pred, average=None)))
    assert per_class_accuracy([0, 0, 0, 1], [0, 0, 1, 1], 2) == [wilson(2, 3), wilson(1, 1)]


def test_class_without_images_has_no_accuracy():
    with pytest.raises(ValueError, match="0 of 0"):
        per_class_accuracy([0, 1], [0, 1], 3)


def test_pooled_validation_by_hand():
    # 8 of 10 and 3 of 6 in the second epoch, not the mean of 0.8 and 0.5.
    histories = [
        {"val_accuracy": [0.1, 0.8, 1.0], "val_loss": [9.0, 2.0, 0.0]},
        {"val_accuracy": [0.0, 0.5, 1.0], "val_loss": [9.0, 1.0, 0.0]},
    ]
    accuracy, loss = pooled_validation(histories, [10, 6], epoch=2)
    assert accuracy == wilson(11, 16) and loss == pytest.approx((10 * 2 + 6 * 1) / 16)
    assert pooled_validation(histories, [10, 6], epoch=1)[0] == wilson(1, 16)


def test_pooled_validation_undoes_float32_rounding():
    histories = [{"val_accuracy": [float(np.float32(41 / 43))], "val_loss": [0.5]}] * 3
    assert pooled_validation(histories, [43] * 3, epoch=1)[0] == wilson(123, 129)


@pytest.mark.parametrize("epoch", [-1, 0, 4])
def test_pooled_validation_refuses_an_epoch_that_was_not_trained(epoch):
    history = {"val_accuracy": [0.1, 0.8, 1.0], "val_loss": [9.0, 2.0, 0.0]}
    with pytest.raises((IndexError, ValueError)):
        pooled_validation([history], [10], epoch)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [(0.5, "beaten"), (0.6, "met"), (0.7, "met"), (0.8, "met"), (0.9, "missed")],
)
def test_verdict(reported, expected):
    assert verdict(reported, Interval(0.7, 0.6, 0.8)) == expected


def test_class_scores_equal_recalls_of_each_class_and_of_the_rest():
    y_true, y_pred = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 1, 2, 2, 3, 3, 3])
    scores = class_scores(y_true, y_pred, 4)
    for k, row in enumerate(scores):
        one, guess = y_true == k, y_pred == k
        assert row["sensitivity"].value == pytest.approx(recall_score(one, guess))
        assert row["specificity"].value == pytest.approx(recall_score(~one, ~guess))
        assert row["F1"] == pytest.approx(f1_score(one, guess))


def test_mcnemar_by_hand():
    """Five images are right with the first only, none with the second only: p = 2 / 2^5."""
    first = np.array([True] * 8 + [False] * 2)
    second = np.array([True] * 3 + [False] * 7)
    assert mcnemar(first, second) == (5, 0, pytest.approx(2 / 2**5))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_bootstrap_draws_patients_and_not_images():
    """Ten copies of each patient's image must not narrow the interval: there are no more patients."""
    values = np.random.default_rng(0).normal(size=30)
    single = bootstrap_by_group(lambda rows: values[rows].mean(), np.arange(30))
    tenfold, groups = np.repeat(values, 10), np.repeat(np.arange(30), 10)
    copied = bootstrap_by_group(lambda rows: tenfold[rows].mean(), groups)
    assert copied == pytest.approx(single)
    standard_error = values.std(ddof=1) / np.sqrt(30)
    assert single.high - single.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


SOUND = {"loss": [1.4, 0.8, 0.3]}


def test_a_sound_fit_has_no_problems():
    assert fit_problems(SOUND, [0, 1, 2, 2], np.log(4)) == []


@pytest.mark.parametrize(
    ("losses", "y_pred", "words"),
    [
        ([1.4, 0.8, 0.3], [2, 2, 2], ["collapsed: every image is called class 2"]),
        ([1.0, 0.9, 1.2], [0, 1, 2], ["diverges: the training loss went from 1.000 to 1.200"]),
        ([1.39, 1.39, 1.388], [0, 1, 2], ["learned nothing"]),
        ([1.0, 5.0, 9.0], [1, 1, 1], ["collapsed", "diverges", "learned nothing"]),
        ([1.0, 0.5, np.nan], [0, 1, 2], ["diverges", "learned nothing"]),
    ],
)
def test_what_went_wrong_in_a_fit_is_named(losses, y_pred, words):
    problems = fit_problems({"loss": losses}, np.array(y_pred), np.log(4))
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_paired_difference_counts_what_only_one_has_right():
    a, b = np.array([1, 1, 1, 0, 1, 0], bool), np.array([1, 0, 0, 0, 1, 1], bool)
    gap = paired_difference(a, b, np.arange(6))
    assert gap.value == pytest.approx((2 - 1) / 6) and gap.low < 0 < gap.high
    assert paired_difference(a, a, np.arange(6)) == Interval(0, 0, 0)
    assert paired_difference(b, a, np.arange(6)).value == -gap.value
