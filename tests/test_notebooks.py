"""Committed notebooks, README and model card: brief, in the order of the template, borne out by one run."""

import ast
import json
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import nbformat
import pytest

import execute

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"Task1_binary": (36, 330, 9), "Task2_multiclass": (42, 430, 9)}  # code cells, lines, figures
CELLS = {stem: nbformat.read(ROOT / f"{stem}.ipynb", as_version=4).cells for stem in LIMITS}
CODE = {stem: [cell for cell in cells if cell.cell_type == "code"] for stem, cells in CELLS.items()}
OUTPUTS = {stem: [output for cell in cells for output in cell.outputs] for stem, cells in CODE.items()}
TEXTS = {k: "\n".join(c.source for c in v if c.cell_type == "markdown") for k, v in CELLS.items()}
README, CARD = ((ROOT / name).read_text("utf-8") for name in ("README.md", "MODEL_CARD.md"))
RESULTS = README.split("## Results")[-1].split("\n## ")[0]
PLACES = re.compile(r".{,50}(?<![\w.:/])/(?:root|tmp|home|work|Users|content)/.{,50}|[A-Z]:\\\\.{,50}")
WORDS = re.compile(r"[A-Za-z]{2,},? [a-z]{2,}")
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)")
# The headings of the course's template, in its order; each begins a heading, whatever its case.
TEMPLATE = """# Task {} [Total points: 30] | ## Setup | ## Data | ## [20 points] | ### Load image data
| ### Generate training and validation batches | ### [10 points] Build model | ### [5 points] Train model
| ### [5 points] Plot accuracy and loss | ### {} | ## [10 points] t-SNE plot"""
each = pytest.mark.parametrize("stem", LIMITS)


def text_of(output):  # images left out
    texts = [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


def sentence(node):  # a string of several words
    return any(isinstance(n, ast.Constant) and WORDS.search(str(n.value)) for n in ast.walk(node))


def only_a_sentence(source):  # a cell that only shows strings that it puts together
    body = ast.parse(source).body
    joined = [
        isinstance(n, ast.Expr) and any(isinstance(m, ast.JoinedStr) for m in ast.walk(n)) for n in body
    ]
    return all(joined) and sentence(ast.parse(source))


def english_in_if(source):  # a cell that chooses between texts of several words
    chosen = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.IfExp)]
    texts = [
        m.value for n in chosen for side in (n.body, n.orelse) for m in ast.walk(side) if hasattr(m, "value")
    ]
    return any(WORDS.search(str(text)) for text in texts)


def printed(stem):  # in the cell tagged `summary`
    tagged = [cell for cell in CODE[stem] if "summary" in cell.metadata.get("tags", [])]
    return set(NUMBER.findall("\n".join(map(execute.shown, tagged))))


def results(text):
    """The numbers in the last column of a text's tables, without the addresses of links, and all scores."""
    rows = [line.strip().strip("|").split("|")[-1] for line in text.splitlines() if line.strip()[:1] == "|"]
    found = NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", "\n".join(rows)))
    return set(found) | set(re.findall(r"(?<![\d.])[01]\.\d{3}(?!\d)", text))


@each
def test_cells_are_few_and_short(stem):
    cells, most, figures = LIMITS[stem]
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in CODE[stem]]
    lengths = list(map(len, lines))
    assert len(lengths) <= cells and sum(lengths) <= most
    assert statistics.median(lengths) <= 5 and max(lengths) <= 20
    assert sum(n <= 11 for n in lengths) >= 0.9 * len(lengths)
    assert not [line for cell in lines for line in cell if len(line) > 88]
    assert sum("image/png" in output.get("data", {}) for output in OUTPUTS[stem]) <= figures


@each
def test_no_cell_only_builds_a_sentence_and_no_if_chooses_one(stem):
    own = [c.source for c in CODE[stem][1:] if "summary" not in c.metadata.get("tags", [])]
    assert not [source for source in own if only_a_sentence(source) or english_in_if(source)]
    assert only_a_sentence("print(f'one {a}')\nsay(f'It took {n} seconds.')")
    assert not only_a_sentence("x = f(1)\nprint(f'It took {x} seconds.')")
    assert english_in_if("y = 'is met here' if a > b else 'is missed'")
    assert not english_in_if("epochs = 2 if QUICK else 40\nshow(table, 'a title here')")


@each
def test_run_is_whole_in_order_and_leaves_no_errors_or_remains(stem):
    assert [cell.execution_count for cell in CODE[stem]] == list(range(1, len(CODE[stem]) + 1))
    assert not [o for o in OUTPUTS[stem] if o.output_type == "error" or o.get("name") == "stderr"]
    streams = [output.text for output in OUTPUTS[stem] if output.output_type == "stream"]
    assert all(text.strip() and "\r" not in text for text in streams)  # no bar that has gone
    shown = [cell.source for cell in CELLS[stem]] + [*map(text_of, OUTPUTS[stem])]
    assert not PLACES.findall("\n".join(shown)) and (ROOT / f"{stem}.ipynb").stat().st_size < 6_000_000


@each
def test_run_is_on_the_real_images_in_full_and_bears_out_the_text(stem):
    assert "phantom" not in "".join(map(text_of, OUTPUTS[stem])).lower()
    tags = {tag: cell for cell in CODE[stem] for tag in cell.metadata.get("tags", [])}
    assert {"parameters", "summary"} <= set(tags) and "full" in execute.shown(tags["banner"]).split()
    notebook = nbformat.v4.new_notebook(cells=CELLS[stem])
    claims, ranges = execute.column(notebook, "holds in this run"), execute.column(notebook, "inside")
    assert claims and set(claims.values()) == {"yes"}
    assert ranges and set(ranges.values()) == {"True"}


@each
def test_sections_follow_the_template_and_t_sne_comes_right_after_testing(stem):
    headings = re.findall(r"^#+ .*", TEXTS[stem].lower(), re.MULTILINE)
    assert not [heading for heading in headings if heading.startswith("####")]
    task = ("1", "Plot test results") if stem == "Task1_binary" else ("2", "Test")
    wanted = [part.strip() for part in TEMPLATE.format(*task).lower().split("|")]
    places = [next(k for k, h in enumerate([*headings, one]) if h.startswith(one)) for one in wanted]
    assert places == sorted(places) and places[-1] < len(headings), dict(zip(wanted, places, strict=True))
    assert not [h for h in headings[places[3] + 1 : places[-1]] if h.startswith("## ")]


@each
def test_checked_cells_are_marked_exactly_and_print_something(stem):
    """Any other text on the line disables a marker silently, and a cell without output passes always."""
    exact = re.compile("^# NBVAL_(CHECK_OUTPUT|IGNORE_OUTPUT|SKIP|RAISES_EXCEPTION)$", re.MULTILINE)
    marked = [cell for cell in CODE[stem] if "nbval" in cell.source.lower()]
    assert marked and all(exact.search(cell.source) and cell.outputs for cell in marked)


def test_bootstrap_is_the_same_in_both_and_folded_away():
    first, second = (cells[0] for cells in CODE.values())
    assert first.source == second.source and first.metadata == second.metadata
    assert first.metadata["cellView"] == "form" and first.metadata["jupyter"]["source_hidden"]


@each
def test_answer_table_has_the_numbers_of_its_own_run(stem):
    assert (numbers := results(CELLS[stem][0].source)) and not numbers - printed(stem)
    text = "| a 7 | [2](#part-3) |\n|---|---|\n| b | 0.944 [0.742, 0.990], 17 of 18 |\nnot 5, but 0.125."
    assert results(text) == {"2", "0.944", "0.742", "0.990", "17", "18", "0.125"}


@pytest.mark.parametrize("text", [RESULTS, CARD], ids=["README", "card"])
def test_results_have_the_numbers_of_the_runs(text):
    assert (numbers := results(text)) and not numbers - printed("Task1_binary") - printed("Task2_multiclass")


def test_readme_is_short_and_what_it_and_the_model_card_name_exists():
    shown = re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)
    assert len([word for word in shown.split() if re.search(r"\w", word)]) <= 900
    files = r"`((?:utils|tools|tests|benchmarks)/[\w./]+|\w+\.ipynb|[A-Z_]+\.md|[\w-]+\.txt)`"
    assert (named := re.findall(files, README + CARD)) and all((ROOT / name).exists() for name in named)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", README)) <= set(targets)


def test_variables_that_are_read_are_told_of():
    texts = [cell.source for cells in CODE.values() for cell in cells]
    texts += [path.read_text("utf-8") for path in ROOT.glob("utils/*.py")]
    read = set(re.findall(r"""environ(?:\.get\(|\[)["'](XRAY_\w+)""", "\n".join(texts)))
    told = (ROOT / "utils" / "session.py").read_text("utf-8").split('"""')[1]
    assert {"XRAY_DATA", "XRAY_PROFILE"} <= read <= set(re.findall(r"XRAY_\w+", told))


@each
def test_seconds_are_known_of_every_section(stem):  # so that `make run` can say how long it takes
    titles = [title.strip() for title in re.findall(r"^## (.+)", TEXTS[stem], re.MULTILINE)]
    times = json.loads(execute.TIMES.read_text("utf-8"))
    assert list(times[f"{stem}, quick"]) == list(times[f"{stem}, full"]) == titles


@pytest.mark.skipif("OWNER/NAME" not in README, reason="the address has been filled in")
def test_badge_command_fills_in_the_address_and_nothing_else(tmp_path):
    notebooks = [f"{stem}.ipynb" for stem in LIMITS]
    for name in ("README.md", "Makefile", *notebooks):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["make", "badge", "REPOSITORY=a-b/c.d"], cwd=tmp_path, check=True)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert not re.search("OWNER/NAME|<!--", readme)
    for name in notebooks:
        after, before = ((folder / name).read_text("utf-8") for folder in (tmp_path, ROOT))
        assert after != before == after.replace("https://github.com/a-b/c.d", "", 1)
        assert f"/github/a-b/c.d/blob/main/{name}" in readme
