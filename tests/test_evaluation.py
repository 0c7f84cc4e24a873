"""Scores and comparisons against published values, scikit-learn, SciPy and hand counts."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.calibration import calibration_curve

from utils import evaluation as ev


def test_interval_prints_three_digits_and_signs_on_request():
    interval = ev.Interval(17 / 18, -0.742, 0.98999)
    assert str(interval) == f"{interval}" == "0.944 [-0.742, 0.990]"
    assert f"{interval:+}" == "+0.944 [-0.742, +0.990]"


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_table(k, n, low, high):
    """Newcombe (1998), Two-sided confidence intervals for the single proportion, method 3."""
    assert ev.wilson(k, n) == (k / n, pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="must"):
        ev.wilson(k, n)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_difference_of_proportions_equals_newcombes_table(counts, low, high):
    """Newcombe (1998), Interval estimation for the difference between independent proportions, method 10."""
    gap = ev.difference(ev.wilson(*counts[:2]), ev.wilson(*counts[2:]))
    assert gap.value == pytest.approx(counts[0] / counts[1] - counts[2] / counts[3])
    assert gap[1:] == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("counts", "row"),
    [
        ((3, 4, 1, 4), ["1 of 4", "3 of 4", "0.49", "no difference shown"]),  # tasting tea: 34 / 70
        ((24, 36, 30, 36), ["30 of 36", "24 of 36", "0.17", "no difference shown"]),
        ((10, 10, 0, 20), ["0 of 20", "10 of 10", "0.00", "higher"]),
        ((0, 10, 10, 10), ["10 of 10", "0 of 10", "0.00", "lower"]),
        ((5, 5, 1, 5), ["1 of 5", "5 of 5", "0.05", "higher"]),  # 2 × 6 / 252 = 0.048
    ],
)
def test_fishers_test_decides_what_is_said_of_the_report(counts, row):
    results = pd.DataFrame([counts[:2], (1, 2)], ["model", "of no interest"], ["right", "images"])
    table = ev.report_table(results, {"model": counts[2:]})
    gap = ev.difference(ev.wilson(*counts[:2]), ev.wilson(*counts[2:]))
    assert table.loc["model"].tolist() == [*row[:2], f"{gap:+}", *row[2:]] and len(table) == 1


def test_accuracy_table_by_hand():
    """Five images of three patients; a group may be empty."""
    right, patients = np.array([True, False, True, True, True]), np.array(list("aabbc"))
    groups = {"all": right | True, "not c": patients != "c", "c": patients == "c", "none": right & False}
    table, one = ev.accuracy_table(right, patients, groups), str(ev.wilson(1, 1))
    assert table.iloc[:, :3].to_numpy().tolist() == [[4, 5, 3], [3, 4, 2], [1, 1, 1], [0, 0, 0]]
    assert table.loc["not c", "over images"] == "0.750 [0.301, 0.954]"
    assert table.loc["not c", "over patients"] == "0.750 [0.500, 1.000]"  # a twice, or b twice
    assert table.iloc[2:, 3:].to_numpy().tolist() == [[one, one], ["", ""]]


def test_bootstrap_equals_that_of_scipy_over_sums_and_counts_of_patients():
    rng = np.random.default_rng(0)
    patients = rng.integers(30, size=120)
    right = rng.random(120) < 0.3 + 0.5 * (patients % 2)
    sums, counts = np.bincount(patients, right), np.bincount(patients)
    options = {"paired": True, "vectorized": True, "method": "percentile", "random_state": 1}
    reference = stats.bootstrap((sums, counts), lambda s, c, axis: s.sum(axis) / c.sum(axis), **options)
    interval = ev.patient_accuracy(right, patients)
    assert interval == pytest.approx((right.mean(), *reference.confidence_interval), abs=0.015)


def test_bootstrap_draws_patients_and_not_images():
    """Ten copies of each patient's image must not narrow the interval: there are no more patients."""
    values = np.random.default_rng(0).normal(size=30)
    single = ev.bootstrap_by_group(lambda rows: values[rows].mean(), np.arange(30))
    tenfold, groups = np.repeat(values, 10), np.repeat(np.arange(30), 10)
    assert ev.bootstrap_by_group(lambda rows: tenfold[rows].mean(), groups) == pytest.approx(single)
    standard_error = values.std(ddof=1) / np.sqrt(30)
    assert single.high - single.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


@pytest.mark.parametrize("share", [0, 1])
def test_all_right_is_never_certain_nor_all_wrong(share):
    """Nine images of five patients prove what five of five prove: 0.566 (Wilson), and not [1, 1]."""
    patients = np.array(list("aaabbcdde"))
    interval = ev.patient_accuracy(np.full(9, share, bool), patients)
    assert interval == (share, *ev.wilson(5 * share, 5)[1:])
    assert ev.patient_accuracy([True, False], ["a", "a"]).low < 0.5 < ev.patient_accuracy([True], ["a"]).high


@pytest.mark.parametrize("call", [ev.patient_accuracy, lambda a, b: ev.paired_difference(a, a, b)])
@pytest.mark.parametrize(("right", "patients"), [([1, 0, 1], ["a", "b"]), ([[1], [0]], ["a", "b"]), ([], [])])
def test_lengths_that_do_not_fit_are_refused(call, right, patients):
    with pytest.raises(ValueError):
        call(right, patients)


@pytest.mark.parametrize("shift", [-0.2, 0, 0.2])
def test_binary_scores_equal_scikit_learn(shift):
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 60)
    y_score = np.clip(0.3 * y_true + rng.uniform(0, 0.7, 60) + shift, 0, 1).round(1)  # with ties
    scores, found = ev.binary_scores(y_true, y_score, np.arange(60) // 2), y_score > 0.5
    assert {name: score.value for name, score in scores.items()} == {
        "accuracy": pytest.approx((found == y_true).mean()),
        "sensitivity": pytest.approx(metrics.recall_score(y_true, found)),
        "specificity": pytest.approx(metrics.recall_score(y_true, found, pos_label=0)),
        "balanced accuracy": pytest.approx(metrics.balanced_accuracy_score(y_true, found)),
        "F1": pytest.approx(metrics.f1_score(y_true, found)),
        "AUC": pytest.approx(metrics.roc_auc_score(y_true, y_score)),
    }
    assert all(s.low < s.value < s.high for s in scores.values() if s.value < 1)


def test_covid_is_label_0_and_the_model_gives_the_probability_of_normal():
    """One of four covid images is missed, no normal one is: sensitivity 3/4, specificity 1."""
    labels = np.array([0, 0, 0, 0, 1, 1])  # covid sorts before normal
    p_normal = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.95])
    scores = ev.binary_scores(labels == 0, 1 - p_normal, np.arange(6))
    assert scores["sensitivity"].value == 0.75 and scores["specificity"] == ev.wilson(2, 2)
    assert scores["AUC"].value == 7 / 8 and scores["AUC"].low > 0  # draws of one class have none


def test_perfect_scores_are_as_sure_as_the_class_of_fewest_patients():
    y, patients = np.repeat([1, 0], [9, 9]), np.r_[[0, 0, 0, 1, 1, 2, 3, 3, 4], np.arange(10, 19)]
    scores = ev.binary_scores(y, y, patients)
    assert scores["AUC"] == scores["F1"] == scores["sensitivity"] == ev.wilson(5, 5)
    assert ev.binary_scores(1 - y, 1 - y, patients)["AUC"] == scores["AUC"]
    assert scores["specificity"] == ev.wilson(9, 9) and scores["accuracy"] == ev.wilson(14, 14)
    low = 1 - np.hypot(1 - ev.wilson(5, 5).low, 1 - ev.wilson(9, 9).low) / 2  # Newcombe's way
    assert scores["balanced accuracy"] == (1, pytest.approx(low), 1)


@pytest.mark.parametrize(
    ("y_true", "y_score"),
    [([1, 1], [0.2, 0.3]), ([0, 0], [0.2, 0.3]), ([], []), ([0, 1, 1], [0.2, 0.3]), ([[0], [1]], [0.2, 0.3])],
)
def test_binary_scores_refuse_what_they_cannot_score(y_true, y_score):
    with pytest.raises(ValueError, match="both classes"):
        ev.binary_scores(y_true, y_score, np.arange(len(y_true)))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_multiclass_scores_are_those_of_scikit_learn_averaged_over_repeats(n_classes):
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(n_classes), 15)
    p = rng.dirichlet(np.ones(n_classes), (3, len(labels)))
    p[:, np.arange(len(labels)), labels] += 0.3
    p /= p.sum(-1, keepdims=True)
    scores = ev.multiclass_scores(labels, p, np.arange(len(labels)))
    assert scores["accuracy"].value == pytest.approx((p.argmax(-1) == labels).mean())
    f1 = [metrics.f1_score(labels, q.argmax(1), average="macro") for q in p]
    assert scores["macro F1"].value == pytest.approx(np.mean(f1))
    auc = [metrics.roc_auc_score(labels, q if n_classes > 2 else q[:, 1], multi_class="ovr") for q in p]
    assert scores["AUC"].value == pytest.approx(np.mean(auc))
    assert all(s.low < s.value < s.high for s in scores.values())
    assert ev.multiclass_scores(labels, p[0], np.arange(len(labels)))["AUC"].value == pytest.approx(auc[0])


def test_per_class_table_is_each_class_against_the_rest():
    y_true, y_pred = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 1, 2, 2, 3, 3, 3])
    table = ev.per_class_table(y_true, y_pred, list("abcd"), np.arange(8))
    assert table.loc["a", "sensitivity"] == str(ev.wilson(2, 2))
    assert table.loc["a", "specificity"] == str(ev.wilson(6, 6))
    for name, score in (("sensitivity", metrics.recall_score), ("F1", metrics.f1_score)):
        expected = score(y_true, y_pred, average=None)
        assert [float(text.split()[0]) for text in table[name]] == pytest.approx(expected, abs=5e-4)


def test_mcnemar_by_hand():
    """Five images are right with the first only, none with the second only: p = 2 / 2^5."""
    first = np.array([True] * 8 + [False] * 2)
    second = np.array([True] * 3 + [False] * 7)
    assert ev.mcnemar(first, second) == (5, 0, pytest.approx(2 / 2**5))
    assert ev.mcnemar(second, first)[:2] == (0, 5) and ev.mcnemar(first, first) == (0, 0, 1.0)


HAND = [0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]  # 4 × 0.005, 3 × 0.01, 2 × 0.03, and as before


@pytest.mark.parametrize(("p", "adjusted"), [HAND, ([0.5, 0.6], [1, 1]), ([0.2], [0.2]), ([], [])])
def test_holm_by_hand(p, adjusted):
    assert list(ev.holm(p)) == pytest.approx(adjusted)


def test_paired_difference_is_over_patients_and_signed():
    a, b = np.array([1, 1, 1, 0, 1, 0], bool), np.array([1, 0, 0, 0, 1, 1], bool)
    gap = ev.paired_difference(a, b, np.arange(6))
    assert gap.value == pytest.approx((2 - 1) / 6) and gap.low < 0 < gap.high
    assert ev.paired_difference(b, a, np.arange(6)).value == -gap.value
    two = ev.paired_difference(a, b, np.array([0, 1, 1, 1, 1, 1]))  # each draw lacks a patient or is whole
    assert (two.low, two.high) == (0, pytest.approx(1 / 5))


def test_equal_answers_are_no_proof_of_equality():
    right = np.array([True] * 17 + [False])
    end = ev.wilson(0, 9).high
    assert ev.paired_difference(right, right, np.arange(18) // 2) == (0, -end, end)
    loss = np.linspace(0.1, 2, 18)
    assert ev.paired_difference(loss + 0.1, loss, np.arange(18)).value == pytest.approx(0.1)


@pytest.mark.parametrize(("shape", "k"), [((40,), 2), ((40, 1), 2), ((40, 2), 2), ((40, 4), 4)])
def test_image_losses_average_to_scikit_learns_log_loss(shape, k):
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(k), 40), rng.integers(k, size=40)
    p = p if shape[1:] == (k,) else p[:, 1].reshape(shape)
    losses, first = ev.image_losses(labels, p), metrics.log_loss(labels[:1], p[:1], labels=np.unique(labels))
    assert (len(losses), losses[0]) == (40, pytest.approx(first))
    assert losses.mean() == pytest.approx(metrics.log_loss(labels, p))


def test_certainty_of_float32_costs_what_it_can_express():
    """A saturated network's zero counts as 2^-23: a loss of 15.9, and never infinite."""
    assert ev.image_losses([0, 1], np.float32([[0.0], [0.0]])) == pytest.approx([2**-23, 23 * np.log(2)])


@pytest.mark.parametrize("p", [[[0.2], [np.nan]], [[1.2], [0.1]], [[-0.1], [0.5]]])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ev.image_losses([0, 1], p)


def test_variant_table_compares_each_with_the_reference():
    labels, patients = np.repeat([0, 1], 20), np.arange(40) // 2
    reference = np.where(labels == 1, 0.8, 0.2)
    worse, swap = reference.copy(), reference.copy()
    worse[:10] = 0.9  # ten covid images lost: McNemar's p is 2 / 2^10, Holm's twice that
    reference[-1] = worse[-1] = 0.4
    swap[0] = 0.6  # one lost, one gained
    p = {"report's": reference, "VGG19": worse[:, None], "dropout": np.stack([1 - swap, swap], 1)}
    table = ev.variant_table(p, labels, patients, "report's", {"VGG19": "a little worse"})
    assert list(table.index) == ["report's", "VGG19", "dropout"]
    assert list(table["report"]) == ["", "a little worse", ""]
    assert list(table["gained"]) == ["", 0, 1] and list(table["lost"]) == ["", 10, 1]
    assert table["p"].tolist()[1:] == [pytest.approx(4 / 2**10), 1]
    assert list(table["by accuracy"]) == ["", "worse", "no difference shown"]
    assert list(table["by loss"]) == ["", "worse", "no difference shown"]
    assert table.loc["report's", "accuracy"] == str(ev.patient_accuracy(np.arange(40) < 39, patients))
    assert table.loc["report's", "loss"] == f"{ev.image_losses(labels, reference).mean():.4f}"
    losses = [ev.image_losses(labels, p) for p in (worse, reference)]
    gap = ev.paired_difference(*losses, patients, confidence=0.975)
    assert table.loc["VGG19", "loss difference"] == f"{gap:+}" and gap.low > 0


def test_calibration_by_hand():
    # Two bins: mean confidence 0.565 and 0.975, of which 1 of 2 and 2 of 2 are right.
    result = ev.calibration(np.array([1, 0, 1, 1]), [0.55, 0.58, 0.95, 1.0])
    assert result["expected calibration error"] == pytest.approx((2 * 0.065 + 2 * 0.025) / 4)
    # Three classes: (0.5² + 0.3² + 0.2²) and (0.1² + 0.3² + 0.2²).
    result = ev.calibration(np.array([0, 1]), [[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]])
    assert result["Brier score (0 to 2)"] == pytest.approx((0.38 + 0.14) / 2)


def test_calibration_of_two_classes_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200)
    y = (rng.uniform(size=200) < p).astype(int)
    result = ev.calibration(y, p)
    assert result["Brier score (0 to 2)"] == pytest.approx(2 * metrics.brier_score_loss(y, p))
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == y
    share, mean = calibration_curve(right, 2 * confidence - 1, n_bins=5)  # on 0 to 1, as is its habit
    counts = np.histogram(confidence, np.linspace(0.5, 1, 6))[0]
    expected = counts @ np.abs(share - (mean + 1) / 2) / 200
    assert result["expected calibration error"] == pytest.approx(expected)
