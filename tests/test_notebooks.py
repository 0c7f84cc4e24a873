"""The committed notebooks are complete and readable; README and model card agree."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from tools import check_run

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("Task1_binary", "Task2_multiclass")
NOTEBOOKS = [nbformat.read(ROOT / f"{name}.ipynb", as_version=4) for name in NAMES]
PATHS = re.compile(r"(?<![\w.:/])/(?:root|tmp|home|work|Users|content)/|[A-Z]:\\\\")
SCORE = re.compile(r"\b[01]\.\d{3}\b")

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=NAMES)


def outputs_of(notebook):
    cells = check_run.code_cells(notebook)
    return [output for cell in cells for output in cell.outputs]


def text_of(notebook):
    """All text of a notebook and of its outputs, without the images."""
    texts = [cell.source for cell in notebook.cells]
    for output in outputs_of(notebook):
        texts.append(output.get("text", ""))
        for mime, data in output.get("data", {}).items():
            if mime.startswith("text/"):
                texts.append(data)
    return "\n".join(texts)


@each
def test_run_is_complete_and_on_the_real_images(notebook):
    counts = [cell.execution_count for cell in check_run.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert check_run.find_fault(notebook, notebook) == ""
    assert not check_run.uses_phantoms(notebook)
    assert not PATHS.findall(text_of(notebook))
    names = [output.get("name") for output in outputs_of(notebook)]
    assert "stderr" not in names


@each
def test_figures_are_numbered_and_described(notebook):
    number = 0
    for output in outputs_of(notebook):
        if "image/png" in output.get("data", {}):
            number += 1
            alt = output.metadata["image/png"]["alt"]
            assert alt.startswith(f"Figure {number}. ")
            assert f"**{alt}**" in text_of(notebook)


@each
def test_cells_are_short(notebook):
    for cell in check_run.code_cells(notebook):
        assert len(cell.source.splitlines()) <= 20  # `make lint` checks their width


def test_first_cells_are_the_same():
    first, second = (check_run.code_cells(notebook)[0] for notebook in NOTEBOOKS)
    assert first.source == second.source


def test_enough_cells_are_compared():
    cells = [cell for notebook in NOTEBOOKS for cell in check_run.code_cells(notebook)]
    marked = [cell for cell in cells if "NBVAL" in cell.source]
    assert len(marked) >= 8
    for cell in marked:
        assert "# NBVAL_CHECK_OUTPUT\n" in cell.source  # nothing else on that line
        assert cell.outputs


def names(tree, context):
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, context)}


@each
def test_no_loop_variable_is_read_in_a_later_cell(notebook):
    loop_variables = set()
    for cell in check_run.code_cells(notebook):
        tree = ast.parse(cell.source)
        parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        foreign = names(tree, ast.Load) - names(tree, ast.Store) - parameters
        assert not foreign & loop_variables
        for node in ast.walk(tree):
            if isinstance(node, ast.For):
                loop_variables |= names(node.target, ast.Store)


@each
def test_links_lead_to_headings(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    text = "\n".join(texts)
    headings = re.findall(r"(?m)^#+ (.*)", text)
    anchors = [heading.replace(" ", "-") for heading in headings]
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= set(anchors)


@pytest.mark.parametrize("name", ["README.md", "MODEL_CARD.md"])
def test_scores_are_those_of_the_notebooks(name):
    text = (ROOT / name).read_text("utf-8")
    shown = "".join(map(text_of, NOTEBOOKS))
    assert set(SCORE.findall(text)) <= set(SCORE.findall(shown))
    assert "[[" not in text


def test_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(re.findall(r"\S*\w\S*", text)) <= 900
