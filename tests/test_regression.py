"""Ranges of a rerun's scores: what is let through, what is named, and that the committed runs lie within."""

import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from utils.regression import FULL, HIGHEST, check_scores, expected, image_state, structure, weight_state
from utils.sources import read_manifest

ROOT = Path(__file__).resolve().parents[1]
SOUND = structure([np.array([[0.2], [1.0]])], [{"loss": [0.7, 0.4], "val_loss": [0.6, 0.5]}])
GOOD = SOUND | {
    "test accuracy": 17 / 18,
    "cross-validated accuracy": 0.97,
    "accuracy of the file header": 0.96,
    "accuracy on permuted labels": 0.55,
}


def test_table_has_each_range_with_its_value_and_basis():
    table = check_scores("Task 1", GOOD | {"something else": 3.0}, "real", "partial", "full")
    assert list(table.columns) == ["value", "low", "high", "basis"]
    assert "something else" not in table.index
    assert table.loc["test accuracy", "value"] == 17 / 18 and table.loc["test accuracy", "low"] == 0.83
    assert all(table["basis"].str.len() > 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test accuracy", 14 / 18),
        ("cross-validated accuracy", float("nan")),
        ("accuracy on permuted labels", 0.9),
        ("losses that are not finite", 1),
        ("training loss, last epoch over first", 1.01),
    ],
)
def test_score_outside_is_named_with_value_range_and_basis(name, value):
    allowed = expected("Task 1", "real", "partial", "full")[name]
    with pytest.raises(AssertionError, match="Task 1, real images, partial weights, profile full") as caught:
        check_scores("Task 1", GOOD | {name: value}, "real", "partial", "full")
    (line,) = str(caught.value).splitlines()[1:]
    assert line == f"{name} is {value}, expected {allowed.low} to {allowed.high} ({allowed.basis})"


def test_a_score_that_is_absent_is_no_score_that_is_right():
    with pytest.raises(AssertionError, match="cross-validated accuracy is absent"):
        check_scores("Task 1", {k: v for k, v in GOOD.items() if k[:5] != "cross"}, "real", "full", "full")


@pytest.mark.parametrize(
    "run",
    [
        ("phantom", "none", "quick"),
        ("phantom", "full", "full"),
        ("other", "full", "full"),
        ("real", "none", "full"),
        ("real", "partial", "quick"),
    ],
)
def test_other_runs_are_held_to_their_structure_alone(run):
    assert list(check_scores("Task 2", SOUND, *run).index) == list(SOUND)
    with pytest.raises(AssertionError, match="not finite is 2"):
        check_scores("Task 2", SOUND | {"losses that are not finite": 2}, *run)


def test_full_weights_may_be_better_but_not_worse():
    partial, full = (expected("Task 2", "real", weights, "full") for weights in ("partial", "full"))
    assert {name: r.low for name, r in full.items()} == {name: r.low for name, r in partial.items()}
    assert {name for name in full if full[name].high != partial[name].high} == set(HIGHEST)
    assert all(partial[name].high < full[name].high == 1 for name in HIGHEST)
    assert expected("Task 1", "real", "full", "full") == expected("Task 1", "real", "partial", "full")


@pytest.mark.parametrize(
    "bad",
    [
        ("Task 3", "real", "full", "full"),
        ("Task 1", "course", "full", "full"),
        ("Task 1", "real", "most", "full"),
        ("Task 1", "real", "full", "slow"),
    ],
)
def test_unknown_run_is_refused(bad):
    with pytest.raises(ValueError, match="expected one of"):
        expected(*bad)


def test_structure_is_that_of_the_worst_model():
    sound, history = np.array([[0.25, 0.75]]), {"accuracy": [np.inf], "loss": [1.0, 0.5]}
    skew, failed = np.array([[0.5, 0.3], [1.5, -0.5]]), {"loss": [1.0, 2.0], "val_loss": [np.nan, np.inf]}
    assert list(structure([sound], [history]).values()) == [0, 0.0, 0, 0.5]
    outside, error, not_finite, ratio = structure([sound, skew], [history, failed]).values()
    assert (outside, not_finite, ratio) == (2, 2, 2.0) and error == pytest.approx(0.2)
    nan = structure([np.full((1, 4), np.nan)], [{"loss": [np.nan, 1.0]}])
    with pytest.raises(
        AssertionError, match=r"0 to 1 is 4.*\n.*sum.*is nan.*\n.*finite is 1.*\n.*first is nan"
    ):
        check_scores("Task 2", nan, "phantom", "none", "quick")


def test_states_of_weights_and_images():
    def report(complete, *pretrained):
        return SimpleNamespace(complete=complete, pretrained=pretrained)

    assert weight_state(report(True, "a"), report(True, "b")) == "full"
    assert weight_state(report(True, "a"), report(False)) == "partial"
    assert weight_state(report(False), report(False)) == "none"
    files = [path for path in read_manifest() if path.startswith("two/")]
    assert image_state(True, files) == "phantom"
    assert image_state(False, files) == image_state(False, files[1:]) == "real"
    assert (
        image_state(False, files[4:])
        == image_state(False, [f"two/test/covid/{k}.png" for k in "ab"])
        == "other"
    )


# What the last cell of a notebook prints: its first word, and the name of the model, if it has one.
SUMMARY = {
    "Task 1": {
        "test accuracy": r"accuracy +([\d.]+)",
        "cross-validated accuracy": r"held out +([\d.]+)",
        "accuracy of the file header": r"shortcut +([\d.]+) .*file header",
    },
    "Task 2": {
        "test accuracy, VGG16": r"accuracy +([\d.]+) .*VGG16",
        "test accuracy, MobileNet": r"accuracy +([\d.]+) .*MobileNet",
        "test accuracy, better model": r"best +([\d.]+)",
        "cross-validated accuracy, better model": r"held out +([\d.]+)",
    },
}


@pytest.mark.parametrize(("stem", "task"), [("Task1_binary", "Task 1"), ("Task2_multiclass", "Task 2")])
def test_committed_scores_lie_in_their_ranges(stem, task):
    cells = nbformat.read(ROOT / f"{stem}.ipynb", as_version=4).cells
    (summary,) = [cell.outputs[0].text for cell in cells if "summary" in cell.metadata.get("tags", [])]
    weights = "full" if all(a == b for a, b in re.findall(r"(\d+) of (\d+)", summary)) else "partial"
    ranges = expected(task, "real", weights, "full")
    found = {name: re.search(rf"^{pattern}", summary, re.M) for name, pattern in SUMMARY[task].items()}
    assert set(found) <= set(FULL[task]) and None not in found.values(), summary
    outside = {n: f[1] for n, f in found.items() if not ranges[n].low <= float(f[1]) <= ranges[n].high}
    assert not outside
