"""The committed notebooks: executed in order on the real images, without errors, in the template's order."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
MARKERS = ("NBVAL_CHECK_OUTPUT", "NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP", "NBVAL_RAISES_EXCEPTION")
PLACES = re.compile(r"(?<![\w.:/])/(root|tmp|home|work|Users|content)/|[A-Z]:\\\\")
# The headings of the course's template, in its order; each stands in a heading, whatever its case.
TEMPLATE = {
    "Task1_binary": [
        "# Task 1 [Total points: 30]",
        "## Setup",
        "## Data",
        "## [20 points]",
        "### Load image data",
        "### Generate training and validation batches",
        "### [10 points] Build model",
        "### [5 points] Train model",
        "### [5 points] Plot accuracy and loss",
        "### Plot test results",
        "## [10 points] t-SNE plot",
    ],
    "Task2_multiclass": [
        "# Task 2 [Total points: 30]",
        "## Setup",
        "## Data",
        "## [20 points]",
        "### Load image data",
        "### Generate training and validation batches",
        "### [10 points] Build model",
        "### [5 points] Train model",
        "### [5 points] Plot accuracy and loss",
        "### Test",
        "## [10 points] t-SNE plot",
    ],
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output):
    """All that an output shows as text, images left out."""
    data = output.get("data", {})
    texts = [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_there_is_a_notebook_for_each_task_with_the_same_setup():
    assert [path.stem for path in NOTEBOOKS] == list(TEMPLATE)
    setups = [
        next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        for path in NOTEBOOKS
    ]
    assert len(set(setups)) == 1 and "google.colab" in setups[0]


def test_setup_looks_for_every_package_that_colab_may_lack():
    """The setup cell installs the requirements if one of the modules that it names is not there."""
    source = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    setup = next(cell.source for cell in source if cell.cell_type == "code")
    lacking = {"imagehash": "imagehash"}  # Colab's published lists, or Jupyter itself, have all the others
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert all(f'"{module}"' in setup and package in required for module, package in lacking.items())


def test_format_is_valid_and_the_file_small(path, notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    assert path.stat().st_size < 6_000_000


def test_cells_were_executed_once_in_order(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_no_cell_failed_or_wrote_to_stderr(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output.evalue for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_outputs_and_cells_name_no_folder_of_a_machine(notebook):
    for cell in notebook.cells:
        for text in (cell.source, *map(text_of, cell.get("outputs", []))):
            assert not (found := PLACES.search(text)), text[max(found.start() - 50, 0) : found.end() + 50]


def test_progress_bars_left_nothing_behind(code):
    assert not [o.text for cell in code for o in cell.outputs if "\r" in o.get("text", "")]


def test_cells_are_short(code):
    assert not [cell.source for cell in code if len(lines_of(cell)) > 20]


def test_nbval_markers_are_exact_and_on_a_line_of_their_own(notebook):
    """Any other text on the line disables a marker silently."""
    exact = {f"# {marker}" for marker in MARKERS}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            marked = [line for line in cell.source.splitlines() if re.search("nbval", line, re.I)]
            assert set(marked) <= exact, marked


def test_checked_cells_print_something_to_check(code):
    """A checked cell without output passes whatever happens."""
    checked = [cell for cell in code if "# NBVAL_CHECK_OUTPUT" in cell.source.splitlines()]
    assert checked and all(cell.outputs for cell in checked)


def test_code_is_led_in(notebook):
    """Text stands before each code cell, or else a cell whose table or figure the next one goes on from."""
    for before, cell in zip([None, *notebook.cells[:-1]], notebook.cells, strict=True):
        if cell.cell_type == "code":
            assert before is not None, "the notebook begins with code"
            shows = [o for o in before.get("outputs", []) if o.output_type != "stream"]
            assert before.cell_type == "markdown" or shows, cell.source


def test_sections_follow_the_template(path, notebook):
    if path.stem not in TEMPLATE:
        pytest.skip(f"no template for {path.stem}")
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = [line.lower() for text in texts for line in text.splitlines() if line.startswith("#")]
    position = -1
    for wanted in TEMPLATE[path.stem]:
        places = [k for k, heading in enumerate(headings) if heading.startswith(wanted.lower())]
        assert places, f"{wanted} is missing"
        assert places[0] > position, f"{wanted} stands too early"
        position = places[0]


def test_headings_go_no_deeper_than_the_third_level(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not re.findall(r"^####+ .*", "\n".join(texts), re.M)


def test_committed_run_is_on_the_real_images(code):
    tagged = [cell for cell in code if "summary" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    summary = "".join(map(text_of, tagged[0].outputs))
    assert "accuracy" in summary and re.search(r"profile +full", summary)
    shown = "".join(text_of(output) for cell in code for output in cell.outputs)
    assert "phantom" not in (summary + shown).lower()


def test_every_figure_is_there(code):
    """A cell that draws, and ends with a semicolon or a figure, shows an image."""
    for cell in code:
        if re.search(r"plots?\.(plot_|image_sheet)|plt\.subplots", cell.source) and "def " not in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
