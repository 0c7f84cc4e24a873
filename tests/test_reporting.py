"""Tables and figures as they are shown, the report's statements, and claims."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils import reporting

NUMBERS = [f"1.{k}" for k in range(1, 14)]
ANSWERS = dict.fromkeys(NUMBERS, ("0.95", "reproduced"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (np.float32(0.5), "0.500"),
        (0.0004, "<0.001"),
        (21137729, "21,137,729"),
        (np.int64(1000), "1,000"),
        (np.nan, "–"),
        (pd.NA, "–"),
        ("text", "text"),
    ],
)
def test_text_of_a_table_s_cell(value, text):
    assert reporting.format_value(value) == text


@pytest.fixture
def displayed(monkeypatch):
    """What is displayed, as pairs of an item and its options."""
    calls = []

    def record(item, **options):
        calls.append((item, options))

    monkeypatch.setattr(reporting, "display", record)
    return calls


def test_a_table_is_shown_under_its_caption(displayed):
    images = pd.array([1000, pd.NA], dtype="Int64")
    table = pd.DataFrame({"images": images, "p": [0.0001, 0.5]})
    reporting.show(table, "Counts")
    (caption, _), (shown, _) = displayed
    assert caption.data == "**Counts**"
    assert shown.loc[0].tolist() == ["1,000", "<0.001"]
    assert shown.loc[1].tolist() == ["–", "0.500"]


def test_a_figure_has_its_caption_as_alternative_text(displayed):
    figure = plt.figure()
    reporting.show(figure, "Curves", is_phantom=True)
    (caption, _), (shown, options) = displayed
    assert caption.data == "**PHANTOM DATA. Curves**"
    assert shown is figure
    assert options["metadata"] == {"image/png": {"alt": "PHANTOM DATA. Curves"}}
    assert not plt.fignum_exists(figure.number)


def test_statements_stand_beside_their_answers():
    answers = ANSWERS | {"1.13": ("two groups", "undecided")}
    table = reporting.statement_table(1, answers)
    assert list(table.index) == NUMBERS
    statement, *answer = table.loc["1.13"]
    assert statement.startswith("t-SNE of the test features")
    assert answer == ["two groups", "undecided"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, "statement without answer"),
        (ANSWERS | {"2.1": ("", "reproduced")}, "2.1"),
        (ANSWERS | {"1.2": ("", "maybe")}, "not {'maybe'}"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        reporting.statement_table(1, answers)


def test_only_claims_that_do_not_hold_are_raised():
    claims = reporting.claim_table({"a": np.True_, "b": False}, {"c": False})
    assert claims["basis"].tolist() == ["tested", "tested", "described"]
    reporting.require_claims(claims[claims["holds"]])
    with pytest.raises(AssertionError, match="do not hold: b; c$"):
        reporting.require_claims(claims)
