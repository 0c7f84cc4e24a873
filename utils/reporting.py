"""What a notebook shows: figures, tables, the report's statements and our claims."""

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

OUTCOMES = ("reproduced", "not reproduced", "undecided", "not testable here")


def show(item: Figure | pd.DataFrame, caption: str, is_phantom: bool = False) -> None:
    """Display a figure or a table under its caption.

    The caption is also the figure's alternative text. A user's pandas options have
    no effect.
    """
    if is_phantom:
        caption = f"PHANTOM DATA. {caption}"
    display(Markdown(f"**{caption}**"))
    if isinstance(item, Figure):
        display(item, metadata={"image/png": {"alt": caption}})
        plt.close(item)
        return
    with pd.option_context(
        "display.max_rows",
        None,
        "display.max_columns",
        None,
        "display.max_colwidth",
        None,
        "display.notebook_repr_html",
        True,
    ):
        # As objects, because pandas 2.2 maps integers with gaps as floats.
        display(item.astype(object).map(format_value))


def format_value(value) -> str:
    """Text of a table's cell: three decimals, thousands separated, "–" if missing."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):  # NumPy's integers among them
        return f"{value:,}"
    if isinstance(value, Real):
        return _format_real(value)
    return str(value)


def _format_real(value: Real) -> str:
    if np.isnan(value):
        return "–"
    if 0 < value < 0.0005:
        return "<0.001"
    return f"{value:.3f}"


def statement_table(task: int, answers: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """The report's statements on a task beside what this run found.

    Parameters
    ----------
    task : int
        1 or 2.
    answers : mapping
        From a statement's number to its answer and its outcome, one of `OUTCOMES`.

    Raises
    ------
    ValueError
        If a statement has no answer, or an answer no statement or outcome.
    """
    path = Path(__file__).with_name("statements.csv")
    table = pd.read_csv(path, dtype=str).set_index("number").rename_axis(None)
    table = table[table.index.str.startswith(f"{task}.")]
    mismatched = set(table.index).symmetric_difference(answers)
    if mismatched:
        raise ValueError(f"statement without answer, or answer without: {mismatched}")
    pairs = [answers[number] for number in table.index]
    table = table.join(pd.DataFrame(pairs, table.index, ["here", "outcome"]))
    unknown = set(table["outcome"]).difference(OUTCOMES)
    if unknown:
        raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}, not {unknown}")
    return table


def claim_table(
    tested: Mapping[str, bool], described: Mapping[str, bool]
) -> pd.DataFrame:
    """A row for each claim of the prose: its basis, and whether it holds in this run.

    tested: by an interval or a test; described: by the numbers of this run alone.
    """
    rows = [(claim, "tested", bool(holds)) for claim, holds in tested.items()]
    rows += [(claim, "described", bool(holds)) for claim, holds in described.items()]
    numbers = range(1, len(rows) + 1)
    return pd.DataFrame(rows, numbers, ["claim", "basis", "holds"])


def require_claims(claims: pd.DataFrame) -> None:
    """Raise an AssertionError that lists the claims that do not hold."""
    failed = claims.loc[~claims["holds"], "claim"]
    if len(failed):
        raise AssertionError("Claims that do not hold: " + "; ".join(failed))
