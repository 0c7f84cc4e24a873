"""`make run`, `regress`, `report`, `submission` and `.ci/run`, called as a user does; requirements."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

import report

ROOT = Path(__file__).resolve().parents[1]
KEPT = {"capture_output": True, "text": True}
BAR = "import sys, tqdm\nlist(tqdm.tqdm('ab', file=sys.stdout, leave=False))\nprint('≥', open('x').read())"
FRAMES = """import pandas as pd
display(pd.DataFrame({"claim": ["first", "second"], "holds in this run": ["yes", "no"]}))
pd.DataFrame({"value": [1, 2], "inside": [True, False]}, index=["low", "high"])"""


@pytest.fixture
def execute(tmp_path):
    """Execute cells, from elsewhere, with settings that get in the way; the process, and the cells after."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "x").write_text("found beside")
    own = {"MPLBACKEND": "Agg", "LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}
    where = {"cwd": tmp_path / "elsewhere", "env": os.environ | own}

    def call(cells, *options):
        (tmp_path / "small.ipynb").write_text(nbformat.writes(new_notebook(cells=cells)), "utf-8")
        command = [sys.executable, ROOT / "tools/execute.py", "../small.ipynb", "--out", "out", *options]
        done = subprocess.run(command, **where, **KEPT)
        return done, nbformat.read(tmp_path / "elsewhere" / "out" / "small.ipynb", as_version=4).cells

    return call


CELLS = [
    new_markdown_cell("# Task\n\n## Setup"),
    new_code_cell("print('Images: phantoms')\nprint('Profile: quick')", metadata={"tags": ["banner"]}),
    new_markdown_cell("## Train"),
    new_code_cell(BAR),
    new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"),
    new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(7)", outputs=[new_output("stream", text="8\n")]),
    new_code_cell(FRAMES),
    new_code_cell("print('accuracy = 1 of 1')", metadata={"tags": ["summary"]}),
]


def test_run_tells_its_way_and_regress_ends_with_a_table(execute):
    first, cells = execute(CELLS, "--check")
    assert re.search(
        r"0:\d\d  Setup\n=+\nImages: phantoms\nProfile: quick\n=+\n +0:\d\d  Train", first.stdout
    )
    assert re.search(r"accuracy = 1 of 1\n0\.\d minutes; out/small\.ipynb and \.html", first.stdout)
    assert re.findall(r"^  (\d)\. ", first.stdout, re.MULTILINE) == ["1", "2", "3"]  # ways to real images
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 7))
    assert code[1].outputs[0].text == "≥ found beside\n" and "image/png" in code[2].outputs[0].data
    assert not any("execution" in cell.metadata for cell in code)
    assert first.returncode == 1 and "not among checked cells that are equal: cell 4\n" in first.stdout
    again, _ = execute(cells, "--check")
    assert again.returncode == 0 and re.search(r"Train +about 0\.\d min left", again.stdout)
    rows = dict(re.findall(r"^(\w.*?)  +(\d of \d|0\.\d)$", again.stdout, re.MULTILINE))
    assert rows["checked cells that are equal"] == "1 of 1" and rows["cells that are equal"] == "6 of 6"
    assert rows["scores in their range"] == rows["claims that hold"] == "1 of 2" and rows["minutes"]
    assert "scores in their range: high\n" in again.stdout and "claims that hold: second\n" in again.stdout


def test_failing_cell_is_written_in_its_place(execute):
    cells = [new_code_cell(text) for text in ("print(1)", "raise OSError('no lung')", "1")]
    cells[2].outputs, cells[2].metadata = [new_output("stream", text="99 %")], {"tags": ["summary"]}
    done, cells = execute(cells)
    assert done.returncode == 1 and "no lung" in done.stderr and "out/small.ipynb shows where" in done.stderr
    assert "99 %" not in done.stdout
    assert [len(cell.outputs) for cell in cells] == [1, 1, 0] and cells[1].outputs[0].evalue == "no lung"


@pytest.fixture
def notebooks():
    html = "<script>alert(1)</script><table><tr><td>5</td></tr></table>"
    outputs = [
        new_output("display_data", data) for data in ({"image/png": "iVBORw0KGgo="}, {"text/html": html})
    ]
    texts = ["# {}\n## Setup\nOf $p_t^\\gamma$, not `$x$`:\n\n$$\\frac{{a}}{{b}}$$", "See [above](#Setup):"]
    text = {name: [new_markdown_cell(text.format(name)) for text in texts] for name in ("First", "Second")}
    return {k: new_notebook(cells=[*v, new_code_cell("a < b", outputs=outputs)]) for k, v in text.items()}


def test_report_fetches_nothing_and_its_links_lead_to_their_own_notebook(notebooks, tmp_path):
    (tmp_path / "losses.py").write_text("def loss():\n    return 1 < 2\n")
    page = BeautifulSoup(report.build(notebooks, [tmp_path / "losses.py"]), "html.parser")
    assert not page.select("script, link, iframe, object")
    assert [image["src"][:15] for image in page.select("img")] == ["data:image/png;"] * 2
    contents = ["First", "Setup", "Second", "Setup", "Appendix: source code", f"{tmp_path.name}/losses.py"]
    assert [link.text for link in page.select("nav a")] == contents
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids)) and all(link["href"][1:] in ids for link in page.select("a"))
    assert [link["href"] for link in page.find_all("a", string="above")] == ["#First-Setup", "#Second-Setup"]
    assert [m["display"] for m in page.select("math")] == ["inline", "block"] * 2
    assert page.find("code", string="$x$") and page.select("section")[-1].pre.text.startswith("def loss")


def test_report_names_what_cannot_be_printed(notebooks):
    with pytest.raises(ValueError, match=r"\\nonsense"):
        report.formula(r"\nonsense{b}", "inline")
    notebooks["First"].cells[1].source = "![dot](https://example.org/dot.png)"
    with pytest.raises(ValueError, match="First: https://example.org/dot.png would be fetched"):
        report.build(notebooks)


@pytest.mark.parametrize("fault", ["", "dubious ownership", "not a git repository"])
def test_submission_holds_tracked_files_only_or_fails_with_the_words_of_git(fault, tmp_path):
    for name in ("Makefile", ".env", "submission.zip"):
        shutil.copy(ROOT / "Makefile", tmp_path / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "Makefile"], [*who, "commit", "-qm", "Begin"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    if fault == "not a git repository":
        shutil.rmtree(tmp_path / ".git")
    own = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": str(int(fault[:1] == "d")), "HOME": str(tmp_path)}
    done = subprocess.run(["make", "submission"], cwd=tmp_path, env=os.environ | own, **KEPT)
    assert (done.returncode != 0) == bool(fault) and fault in done.stderr
    assert (tmp_path / "submission.zip").exists() != bool(fault)
    names = [] if fault else zipfile.ZipFile(tmp_path / "submission.zip").namelist()
    assert {name for name in names if name[-1] != "/"} <= {"xray-classification/Makefile"}


@pytest.mark.parametrize(
    ("own", "status", "outcomes", "words"),
    [
        ({"STAGES": "test"}, 0, "passed", "made test, cache /"),
        ({"STAGES": "all", "MADE": "2"}, 1, "FAILED SKIPPED SKIPPED FAILED", "made test, cache /"),
        ({"MADE": "2"}, 1, "FAILED", "made test, cache /"),
        ({"STAGES": "colab-2.20"}, 0, "SKIPPED", "There is no Python 3.13 here."),
        ({"STAGES": "colab-2.20", "STRICT": "1"}, 1, "SKIPPED", "There is no Python 3.13 here."),
        ({"STAGES": "jax", "MINUTES": "-1"}, 0, "SKIPPED", "There is no time left for it: 0 of -1 minutes"),
        ({"STAGES": "tset"}, 1, "FAILED", "no such stage; there are: test colab-2.19 colab-2.20 jax"),
    ],
)
def test_ci_counts_its_stages(own, status, outcomes, words, tmp_path):
    scripts = dict.fromkeys(("python3", "python3.12", "python3.13"), "exit 127")  # as a shim of pyenv does
    for name, line in (scripts | {"make": "echo made $1, cache $XRAY_CACHE; exit $MADE"}).items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    usual = {"HOME": str(tmp_path), "STAGES": "", "PYTHON": "python3", "MADE": "0"}
    usual["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env=os.environ | usual | own, **KEPT)
    assert done.returncode == status and words in done.stdout + done.stderr
    assert [
        line.split()[1] for line in done.stdout.split("All stages:\n")[1].splitlines()
    ] == outcomes.split()


def read(name):
    lines = re.findall(r"^\w.*", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


@pytest.mark.parametrize("name", [".ci/colab-2.19.txt", ".ci/colab-2.20.txt", "constraints.txt"])
def test_requirements_allow_what_colab_and_the_committed_run_have(name):
    pins, ranges = read(name), read("requirements.txt")
    assert all(str(pin)[2:].replace("*", "0") in ranges[package] for package, pin in pins.items())
    assert {"tensorflow", "keras", "numpy"} <= set(pins) and (name[0] == "." or set(pins) == set(ranges))


def test_requirements_hold_every_package_that_is_imported():
    paths = [*ROOT.glob("utils/*.py"), ROOT / "tools" / "execute.py"]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    modules = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    elsewhere = {"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipykernel", "jax": "tensorflow"}
    left = modules - {"nbformat", "nbclient", "bs4", "google", "gdown"}  # nbconvert's own; optional ones
    assert {elsewhere.get(name, name) for name in left} <= set(read("requirements.txt"))
