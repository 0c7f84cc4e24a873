"""Cross-validation of estimators: no patient on both sides, intervals by patient, tests that can fail."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from utils.data import ImageSet, grouped_folds
from utils.validation import held_out_probabilities, permutation_test, repeated_scores


def image_set(patients_per_class, images_per_patient, n_classes=2):
    """Labels and patients only; the images are empty."""
    labels = np.repeat(np.arange(n_classes), patients_per_class * images_per_patient)
    patients = np.repeat(np.arange(n_classes * patients_per_class), images_per_patient).astype(str)
    names = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")[:n_classes]
    files = np.array([f"{k}.png" for k in range(len(labels))])
    return ImageSet(np.zeros((len(labels), 2, 2, 3), "uint8"), labels, names, files, patients)


@pytest.fixture
def twins():
    """40 patients of 3 images; features tell the patient exactly, and nothing of the class."""
    images = image_set(20, 3)
    features = np.random.default_rng(0).normal(size=(40, 8))[images.patients.astype(int)]
    return images, features + np.random.default_rng(1).normal(scale=0.01, size=features.shape[:1] + (8,))


def accuracy(probabilities, labels):
    return (probabilities.argmax(-1) == labels).mean()


def test_a_patient_on_both_sides_is_worth_a_perfect_score_and_grouping_takes_it_away(twins):
    images, features = twins
    nearest = KNeighborsClassifier(1)
    leaky = held_out_probabilities(nearest, features, images, 5, 0, grouped=False)
    honest = held_out_probabilities(nearest, features, images, 5, 0)
    assert accuracy(leaky, images.labels) > 0.95
    assert accuracy(honest, images.labels) < 0.75


def test_each_repeat_has_its_own_folds_and_each_image_the_estimator_of_its_fold(twins):
    images, features = twins
    nearest = KNeighborsClassifier(3)
    p = held_out_probabilities(nearest, features, images, 4, seed=7, repeats=2)
    assert p.shape == (2, 120, 2) and not np.array_equal(p[0], p[1])
    for repeat in range(2):
        for train, rest in grouped_folds(images, 4, 7 + repeat):
            expected = KNeighborsClassifier(3).fit(features[train], images.labels[train])
            np.testing.assert_array_equal(p[repeat, rest], expected.predict_proba(features[rest]))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_those_of_scikit_learn_averaged_over_the_repeats(n_classes):
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(n_classes), 15)
    p = rng.dirichlet(np.ones(n_classes), (3, len(labels)))
    p[:, np.arange(len(labels)), labels] += 0.3
    p /= p.sum(-1, keepdims=True)
    scores = repeated_scores(p, labels, np.arange(len(labels)), resamples=20)
    assert scores["accuracy"].value == pytest.approx(accuracy(p, labels))
    f1 = [f1_score(labels, q.argmax(1), average="macro") for q in p]
    assert scores["macro F1"].value == pytest.approx(np.mean(f1))
    auc = [roc_auc_score(labels, q if n_classes > 2 else q[:, 1], multi_class="ovr") for q in p]
    assert scores["AUC"].value == pytest.approx(np.mean(auc))
    assert all(s.low < s.value < s.high for s in scores.values())


def test_few_patients_with_many_images_have_a_wider_interval_than_many_with_one():
    rng = np.random.default_rng(4)
    right = np.repeat(rng.integers(2, size=24), 5)  # a patient's images are all right or all wrong
    labels = np.tile([0, 1], 60)
    p = np.eye(2)[np.where(right, labels, 1 - labels)][None]
    few, many = (
        repeated_scores(p, labels, groups, resamples=200)["accuracy"]
        for groups in (np.repeat(np.arange(24), 5), np.arange(120))
    )
    assert few.value == many.value and few.high - few.low > 1.5 * (many.high - many.low)


def test_a_real_difference_is_told_from_shuffled_labels_and_noise_is_not():
    images = image_set(15, 2)
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(60, 3))
    signal = noise + 3 * images.labels[:, None]
    observed, null, p = permutation_test(LogisticRegression(), signal, images, 3, 0, permutations=39)
    assert observed > 0.95 and null.max() < observed and p == 1 / 40
    observed, null, p = permutation_test(LogisticRegression(), noise, images, 3, 0, permutations=39)
    assert p > 0.05 and p == (1 + (null >= observed).sum()) / 40


def test_shuffling_keeps_the_images_of_a_patient_together(twins, monkeypatch):
    """By patient the nearest neighbour finds nothing; shuffled by image it would find a twin's label."""
    images, features = twins
    seen = []

    class Spy(DummyClassifier):
        def fit(self, x, y, **kwargs):
            seen.append(y)
            return super().fit(x, y, **kwargs)

    permutation_test(Spy(), np.arange(120.0)[:, None], images, 2, 0, permutations=3)
    for start in range(0, len(seen), 2):  # two folds: the second fit sees the first one's held-out part
        assert all(
            len(set(part.reshape(-1, 3)[k])) == 1 for part in seen[start : start + 2] for k in range(20)
        )


def test_one_patient_of_two_classes_counts_as_two():
    images = image_set(10, 2)
    images = replace(
        images, patients=np.where(np.isin(images.patients, ["0", "19"]), "mixed", images.patients)
    )
    features = np.random.default_rng(6).normal(size=(40, 2))
    _, null, p = permutation_test(LogisticRegression(), features, images, 2, 0, permutations=5)
    assert len(null) == 5 and 0 < p <= 1
