"""README, model card, faults: numbers are those of the notebooks, commands, files and tests exist."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
README, CARD, FAULTS = (ROOT / name for name in ("README.md", "MODEL_CARD.md", "FAULTS.md"))
SCORE = re.compile(r"(?<![\d.])[01]\.\d{3}(?!\d)")  # scores are printed with three digits


def section(path, heading):
    """The text of a section, up to the next heading of its level or above; all of it without a heading."""
    text = path.read_text(encoding="utf-8")
    if heading is None:
        return text
    level = heading.split(" ")[0]
    assert heading in text.splitlines(), f"{path.name} has no {heading!r}"
    rest = text.split(f"{heading}\n", 1)[1]
    return re.split(rf"^#{{2,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def shown():
    """All text that the committed notebooks show."""
    texts = []
    for path in sorted(ROOT.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                texts += [output.get("text", ""), data.get("text/markdown", ""), data.get("text/html", "")]
    return "\n".join(texts)


@pytest.mark.parametrize(("path", "heading"), [(README, "## Results"), (CARD, None)])
def test_every_score_is_one_that_a_committed_notebook_shows(path, heading, shown):
    scores = SCORE.findall(section(path, heading))
    assert len(scores) > 10
    assert not [score for score in scores if score not in shown]


@pytest.mark.parametrize("path", [README, CARD])
def test_every_file_that_is_named_exists(path):
    named = re.findall(
        r"`((?:utils|tools|tests|benchmarks)/[\w./]+|\w+\.ipynb|[A-Z_]+\.md)`", path.read_text("utf-8")
    )
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_every_make_target_that_the_readme_names_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)", README.read_text(encoding="utf-8"))) <= set(targets)


def test_every_variable_that_the_code_reads_is_in_the_readme():
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("utils/*.py"), *ROOT.glob("*.ipynb")]
    )
    read = set(re.findall(r"""environ(?:\.get\(|\[)\\?["'](XRAY_\w+)""", code))
    assert {"XRAY_DATA", "XRAY_WEIGHTS", "XRAY_PROFILE"} <= read
    assert not [name for name in read if f"`{name}`" not in README.read_text(encoding="utf-8")]


def fault_rows():
    """The cells of each row of the table of faults, without its two lines of heading."""
    table = [line for line in FAULTS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def functions_of(path):
    return {
        n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)
    }


def test_every_fault_has_a_result_and_a_test_that_exists():
    rows, named = fault_rows(), []
    assert not [row for row in rows if len(row) != 4 or not all(row)]
    for *_, cell in rows:
        tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
        assert tests and cell == ", ".join(f"`{file}::{test}`" for file, test in tests), cell
        named += tests
    assert not [(file, test) for file, test in named if test not in functions_of(ROOT / "tests" / file)]


def test_the_counts_of_faults_and_of_fuzzed_cases_are_right():
    text = FAULTS.read_text(encoding="utf-8")
    assert int(re.search(r"^(\d+) faults", text, re.MULTILINE)[1]) == len(fault_rows())
    fuzz = (ROOT / "tests" / "test_fuzz.py").read_text(encoding="utf-8")
    cases = sum(map(int, re.findall(r"max_examples=(\d+)", fuzz)))
    assert int(re.search(r"([\d,]+) cases", text)[1].replace(",", "")) == cases


@pytest.mark.parametrize("file", ["test_faults.py", "test_fuzz.py", "test_cells.py"])
def test_no_fault_that_is_tried_is_missing_from_the_table(file):
    """Left out are the tests of these tests: that the checks see what they should."""
    tried = {name for name in functions_of(ROOT / "tests" / file) if name.startswith("test_")}
    own = {
        "test_changes_in_place_are_found",
        "test_names_are_found",
        "test_names_with_two_meanings_are_found",
        "test_the_planted_archive_is_taken_where_nothing_is_wrong_with_it",
    }
    assert not tried - own - set(re.findall(r"::(test_\w+)`", FAULTS.read_text(encoding="utf-8")))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_badge_command_fills_in_the_address_and_nothing_else(tmp_path):
    names = ["README.md", "Makefile", "Task1_binary.ipynb", "Task2_multiclass.ipynb"]
    for name in names:
        shutil.copy(ROOT / name, tmp_path)
    before = {name: (tmp_path / name).read_text(encoding="utf-8").splitlines() for name in names}
    if "OWNER/NAME" not in "".join(before["README.md"]):
        pytest.skip("the address has been filled in")
    assert subprocess.run(["make", "badge"], cwd=tmp_path, capture_output=True).returncode != 0
    subprocess.run(["make", "badge", "REPOSITORY=a-b/c.d"], cwd=tmp_path, check=True, capture_output=True)
    after = {name: (tmp_path / name).read_text(encoding="utf-8").splitlines() for name in names}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names[2:]:
        ((old, new),) = [(a, b) for a, b in zip(before[name], after[name], strict=True) if a != b]
        assert 'REPOSITORY = \\"\\"' in old and 'REPOSITORY = \\"https://github.com/a-b/c.d\\"' in new
    badges = [line for line in after["README.md"] if line.startswith("[![")]
    assert all(any(f"/github/a-b/c.d/blob/main/{name}" in line for line in badges) for name in names[2:])
    assert "<!--" not in (text := "\n".join(after["README.md"])) and "OWNER/NAME" not in text
