"""Folds and held-out scores: no patient on both sides, no choice on what is scored, tests that can fail."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from utils import validation as val
from utils.data import DataError, ImageSet
from utils.evaluation import multiclass_scores

NAMES = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")


def images_of(labels, patients):
    """An ImageSet of empty images."""
    labels, patients, files = np.asarray(labels), np.asarray(patients), np.arange(len(labels)).astype(str)
    return ImageSet(
        np.zeros((len(files), 1, 1, 3), "uint8"), labels, NAMES[: max(labels) + 1], files, patients
    )


def patients_with(*sizes):
    """One tuple a class: the number of images of each of its patients."""
    labels = np.repeat(np.arange(len(sizes)), [sum(one) for one in sizes])
    return images_of(labels, np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes)).astype(str))


def uneven(seed):
    """About 160 images of two classes, one to four of a patient."""
    rng = np.random.default_rng(seed)
    return patients_with(rng.integers(1, 5, 30), rng.integers(1, 5, 35))


@pytest.fixture
def twins():
    """40 patients of 3 images; features tell the patient exactly, and nothing of the class."""
    images = patients_with([3] * 20, [3] * 20)
    features = np.random.default_rng(0).normal(size=(40, 8))[images.patients.astype(int)]
    return images, features + np.random.default_rng(1).normal(scale=0.01, size=(120, 8))


@pytest.mark.parametrize("seed", range(5))
def test_folds_part_no_patient_and_keep_the_shares(seed):
    made = uneven(seed)
    folds = val.grouped_folds(made, 5, seed)
    assert sorted(np.concatenate([rest for _, rest in folds])) == list(range(len(made)))
    for train, rest in folds:
        assert sorted([*train, *rest]) == list(range(len(made)))
        assert (np.diff(train) > 0).all() and (np.diff(rest) > 0).all()
        assert not set(made.patients[train]) & set(made.patients[rest])
        assert abs(made.labels[rest].mean() - made.labels.mean()) < 0.1
        assert abs(len(rest) / len(made) - 0.2) < 0.06


def test_inner_folds_are_those_of_the_part_in_positions_of_the_whole():
    made = uneven(0)
    rows = val.grouped_folds(made, 4, 1)[2][0]
    of_part = val.grouped_folds(made.subset(rows), 3, 2)
    for whole, part in zip(val.inner_folds(made, rows, 3, 2), of_part, strict=True):
        for positions, in_part in zip(whole, part, strict=True):
            np.testing.assert_array_equal(positions, rows[in_part])


def test_split_is_one_of_the_folds_at_random():
    """The splitter puts the patients of most images into its first fold, whatever the seed."""
    made = patients_with([6] + [1] * 30, [5] + [2] * 30)
    with_largest = 0
    for seed in range(40):
        train, rest = val.validation_split(made, 0.2, seed)
        assert [*train, *rest] in [[*a, *b] for a, b in val.grouped_folds(made, 5, seed)]
        with_largest += 0 in rest
    assert 1 <= with_largest <= 18  # 8 expected


def test_what_cannot_be_split_is_an_error_and_not_an_empty_part():
    for fraction in (0, -0.1, 0.51, 1):
        with pytest.raises(ValueError, match="fraction must be"):
            val.validation_split(uneven(0), fraction)
    with pytest.raises(DataError, match="normal has 2 patients, too few for 3 folds"):
        val.grouped_folds(patients_with([1] * 9, [4, 5]), 3, 0)


def test_held_out_probabilities_are_those_of_scikit_learn(twins):
    images, features = twins
    folds = val.grouped_folds(images, 4, 7)
    nearest = KNeighborsClassifier(3)
    expected = cross_val_predict(nearest, features, images.labels, cv=folds, method="predict_proba")
    np.testing.assert_array_equal(val.held_out_probabilities(nearest, features, images, folds), expected)
    train, rest = folds[0]
    inner = val.held_out_probabilities(nearest, features, images, val.inner_folds(images, train, 3, 0))
    assert np.isnan(inner[rest]).all() and np.isfinite(inner[train]).all()


def test_class_that_a_fold_does_not_know_gets_no_probability():
    images, x = patients_with([1] * 4, [1] * 4, [1] * 4), np.arange(12.0)[:, None]
    p = val.held_out_probabilities(GaussianNB(), x, images, [(np.r_[0:4, 8:12], np.arange(4, 8))])
    assert (p[4:8, 1] == 0).all() and p[4:8].sum(1) == pytest.approx(1)


def test_a_patient_on_both_sides_is_worth_a_perfect_score_and_grouping_takes_it_away(twins):
    arguments = (KNeighborsClassifier(1), *reversed(twins), 5, 2, 0)
    leaky, honest = (val.repeated_scores(*arguments, grouped=flag)["accuracy"] for flag in (False, True))
    assert leaky.value > 0.95 and honest.value < 0.75 and honest.high - honest.low > 0.15


def test_repeats_have_their_own_folds_and_patients_are_resampled(twins):
    (images, features), nearest = twins, KNeighborsClassifier(5)
    folds = [val.grouped_folds(images, 4, seed) for seed in (7, 8)]
    p = [val.held_out_probabilities(nearest, features, images, one) for one in folds]
    assert not np.array_equal(*p)
    expected = multiclass_scores(images.labels, np.stack(p), images.patients, 7)
    assert val.repeated_scores(nearest, features, images, 4, 2, 7) == expected


def test_linear_probe_by_hand():
    """Of two equal features one component, z = ±√2; C = 0.01: w = C n √2 / (1 + exp(w √2))."""
    x = np.repeat([[3.0, 30.0], [5.0, 50.0]], 20, axis=0)  # the second feature is the first
    probe = val.linear_probe().fit(x, np.repeat([0, 1], 20))
    w = np.log(np.divide(*probe.predict_proba([[5, 50]])[0, ::-1])) / np.sqrt(2)  # z = √2 after the PCA
    assert w == pytest.approx(0.01 * 40 * np.sqrt(2) / (1 + np.exp(w * np.sqrt(2))), rel=1e-3)
    assert probe.predict([[4.1, 41], [3.9, 39]]).tolist() == [1, 0]


def test_mixtures_are_the_means_of_all_subsets():
    p = {name: np.full((3, 2), value) for name, value in (("a", 0.0), ("b", 0.5), ("c", 1.0))}
    mixed = val.mixtures(p)
    expected = {"a": 0, "b": 0.5, "c": 1, "a + b": 0.25, "a + c": 0.5, "b + c": 0.75, "a + b + c": 0.5}
    assert {name: value[2, 1] for name, value in mixed.items()} == expected
    of_folds = val.mixtures({name: [value, value] for name, value in p.items()})
    assert np.shape(of_folds["a + b"]) == (2, 3, 2)


def test_each_fold_is_scored_by_the_choice_of_the_others():
    nan, labels, first, last = np.nan, np.array([0, 1, 0, 1]), np.array([0, 1]), np.array([2, 3])
    folds = [(last, first), (first, last)]
    columns = {  # of label 0: inner of either fold, then outer
        "x": [[nan, nan, 0.1, 0.9], [0.9, 0.1, nan, nan], [0.9, 0.1, 0.3, 0.3]],
        "y": [[nan, nan, 0.9, 0.1], [0.1, 0.9, nan, nan], [0.4, 0.4, 0.9, 0.1]],
    }
    p = {name: np.stack([one, np.subtract(1, one)], -1) for name, one in columns.items()}
    *inner, outer = ({name: one[k] for name, one in p.items()} for k in range(3))
    scored, chosen = val.nested_choice(inner, outer, labels, folds)
    assert chosen == ["y", "x"]  # the better one on the other fold, worse on its own
    assert scored[:, 0].tolist() == [0.4, 0.4, 0.3, 0.3]
    inner[0]["y"][0] = 0.5
    with pytest.raises(ValueError, match="y: the inner predictions of fold 0 reach into its held-out part"):
        val.nested_choice(inner, outer, labels, folds)
    inner[0]["y"][[0, 2]] = nan
    with pytest.raises(ValueError, match="between 0 and 1"):  # an image of the training part is left out
        val.nested_choice(inner, outer, labels, folds)


def test_a_flat_choice_flatters_pure_noise_and_a_nested_one_does_not():
    """The best of 20 models that know nothing seems to know something, until others' images choose it."""
    flat, nested = [], []
    for seed in range(4):
        images = patients_with([1] * 24, [1] * 24)
        x, model = np.random.default_rng(seed).normal(size=(20, 48, 1)), GaussianNB()
        folds = val.grouped_folds(images, 4, seed)
        parts = [val.inner_folds(images, train, 3, seed) for train, _ in folds]
        outer = {k: val.held_out_probabilities(model, x[k], images, folds) for k in range(20)}
        inner = [{k: val.held_out_probabilities(model, x[k], images, one) for k in outer} for one in parts]
        flat.append(min(log_loss(images.labels, p) for p in outer.values()))
        nested.append(log_loss(images.labels, val.nested_choice(inner, outer, images.labels, folds)[0]))
    assert np.mean(flat) < np.log(2) - 0.02 and np.mean(nested) > np.log(2)


def test_a_real_difference_is_told_from_shuffled_labels_and_noise_is_not():
    images = patients_with([2] * 15, [2] * 15)
    noise = np.random.default_rng(5).normal(size=(60, 3))
    signal = noise + 3 * images.labels[:, None]
    found = val.permutation_test(GaussianNB(), signal, images, 3, 0, permutations=39)
    assert found.observed > 0.95 and found.null.max() < found.observed and found.p == 1 / 40
    found = val.permutation_test(GaussianNB(), noise, images, 3, 0, permutations=39)
    assert found.p > 0.05 and found.p == (1 + (found.null >= found.observed).sum()) / 40


def test_chance_by_hand():
    """Two of six patients, of 2, 2, 1, 1, 1 and 1 images, are class 0: (0.5 + 8 × 0.625 + 6 × 0.75) / 15."""
    images = patients_with([2, 2], [1] * 4)
    found = val.permutation_test(DummyClassifier(), np.zeros((8, 1)), images, 2, 0, permutations=2)
    assert found.chance == pytest.approx(2 / 3, abs=0.01) and found.observed <= 0.5


@pytest.mark.parametrize("absent", ["", "covid-19-pneumonia-14-PA.png"])  # a full download, and ../shared
@pytest.mark.parametrize(("task", "chance", "share"), [("two", 0.608, 0.54), ("all", 0.291, 0.26)])
def test_chance_on_the_challenge_is_above_the_share_of_the_largest_class(task, chance, share, absent):
    with (Path(val.__file__).parent / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith(f"{task}/train/")]
    rows = [row for row in rows if Path(row["path"]).name != absent]
    labels = [NAMES.index(row["path"].split("/")[2]) for row in rows]
    images = images_of(labels, [row["patient"] for row in rows])
    found = val.permutation_test(DummyClassifier(), np.zeros((len(rows), 1)), images, 2, 542, permutations=1)
    assert np.bincount(labels).max() / len(rows) == pytest.approx(share, abs=0.005)
    assert found.chance == pytest.approx(chance, abs=0.003)


def test_one_patient_of_two_classes_counts_as_two():
    images = images_of(np.repeat([0, 1], 20), ["mixed", *np.repeat(np.arange(18), 2), "a", "mixed", "a"])
    found = val.permutation_test(GaussianNB(), np.arange(40.0)[:, None], images, 2, 0, permutations=5)
    assert len(found.null) == 5 and 0 < found.p <= 1
