"""Comparisons against hand counts and SciPy."""

import numpy as np
import pandas as pd
import pytest
from pytest import approx
from scipy import stats

from utils.comparisons import (
    McNemar,
    agreement,
    comparison_table,
    holm,
    mcnemar,
    sign_flip_test,
    verdict,
)
from utils.intervals import proportion
from utils.scores import image_losses


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (5, 0, 2 / 2**5),
        (0, 5, 2 / 2**5),
        (9, 2, 2 * (1 + 11 + 55) / 2**11),
        (3, 3, 1),
        (0, 0, 1),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    """Two-sided: twice the binomial tail of the smaller number."""
    both = [True] * 4
    right_a = both + [True] * only_a + [False] * only_b
    right_b = both + [False] * only_a + [True] * only_b
    test = mcnemar(np.array(right_a), np.array(right_b))
    assert test == McNemar(only_a, only_b, approx(p))


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        # 4 × 0.005, 3 × 0.01 and 2 × 0.03; 1 × 0.04 must not be smaller.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1, 1]),
        ([], []),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(p).tolist() == approx(adjusted)


def test_sign_flips_equal_all_flips_there_are():
    """Five patients with sums of 6, 4, 3, 2 and -1: 4 of 32 flips reach 14 or -14.

    These are the observed signs, those with -1 flipped as well, and their opposites.
    """
    differences = np.array([1, 5, 4, 1, 2, 2, -1])
    patients = ["a", "a", "b", "c", "c", "d", "e"]
    assert sign_flip_test(differences, patients) == 4 / 32
    assert sign_flip_test(-differences, patients) == 4 / 32


def test_random_sign_flips_equal_the_distribution_of_ranks():
    """Sums of signed ranks have the distribution of Wilcoxon (1945)."""
    ranks = np.arange(1, 31)
    differences = np.where(ranks % 3 == 0, -ranks, ranks)
    reference = stats.wilcoxon(differences, method="exact")
    p = sign_flip_test(differences, ranks)
    assert p == approx(reference.pvalue, abs=0.01)


def test_copies_of_images_prove_nothing():
    """The two equal signs of two patients have p = 1 / 2, however many images."""
    assert sign_flip_test(np.ones(20), np.arange(20) % 2) == 0.5


def test_sign_flips_count_the_observed_signs():
    all_equal = sign_flip_test(np.ones(40), np.arange(40))
    assert all_equal == approx(2 / 20_001)
    no_difference = sign_flip_test(np.zeros(40), np.arange(40))
    assert no_difference == 1


@pytest.fixture
def compared():
    """A reference with 39 of 40 images right, and two classifiers beside it."""
    labels = np.repeat([0, 1], 20)
    reference = np.where(labels == 1, 0.8, 0.2)
    reference[-1] = 0.4
    swapped = reference.copy()
    swapped[0] = 0.6
    swapped[-1] = 0.8
    worse = reference.copy()
    worse[:10] = 0.9
    return {
        "labels": labels,
        "patients": np.arange(40) // 2,
        "probabilities": {
            "worse": worse,
            "reference": reference[:, np.newaxis],
            "swapped": np.stack([1 - swapped, swapped], axis=1),
        },
    }


def test_comparison_table_by_hand(compared):
    table = comparison_table(**compared, reference="reference")
    assert list(table.index) == ["worse", "reference", "swapped"]
    accuracy = proportion(np.arange(40) < 39, compared["patients"])
    assert table.loc["reference", "accuracy"] == accuracy
    worse = compared["probabilities"]["worse"]
    losses = image_losses(compared["labels"], worse)
    assert table.loc["worse", "loss"] == approx(losses.mean())
    assert table.loc["worse", "newly correct"] == 0
    assert table.loc["worse", "newly wrong"] == 10
    assert table.loc["swapped", "newly correct"] == 1
    assert table.loc["swapped", "newly wrong"] == 1
    assert table["newly wrong"].dtype == "Int64"


def test_comparison_table_adjusts_p_values_for_two_rows(compared):
    """10 images of 5 patients are newly wrong: p = 2 / 2^5, and twice that."""
    table = comparison_table(**compared, reference="reference")
    assert table.loc["worse", "p accuracy"] == approx(2 * 2 / 2**5, abs=0.01)
    assert table.loc["worse", "p loss"] == approx(2 * 2 / 2**5, abs=0.01)
    assert table.loc["swapped", "p accuracy"] == 1
    reference = table.loc["reference"]
    missing = reference[pd.isna(reference)]
    assert len(missing) == 4


@pytest.mark.parametrize(
    ("difference", "p", "expected", "outcome"),
    [
        (0.1, 0.04, "higher", "reproduced"),
        (-0.1, 0.04, "higher", "not reproduced"),
        (-0.1, 0.04, "lower", "reproduced"),
        (0.1, 0.04, "lower", "not reproduced"),
        (0.1, 0.04, "same", "not reproduced"),
        (0.1, 0.05, "higher", "undecided"),
        (0.0, 1.0, "same", "undecided"),
        (0.1, np.nan, "higher", "undecided"),
    ],
)
def test_verdict(difference, p, expected, outcome):
    assert verdict(difference, p, expected) == outcome


@pytest.mark.parametrize(
    ("holds", "outcome"),
    [
        ([True, True], "reproduced"),
        ([True, False], "undecided"),
        ([False, False], "not reproduced"),
    ],
)
def test_agreement(holds, outcome):
    assert agreement(holds) == outcome


def test_verdict_refuses_another_expectation():
    with pytest.raises(ValueError, match="better"):
        verdict(0.1, 0.01, "better")
