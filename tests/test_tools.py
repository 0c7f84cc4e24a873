"""`make`, the tools that it calls, and the requirements."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

from tools import check_run, report
from utils import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = "<table><tr><th>claim</th></tr><tr><td>holds</td></tr></table>"
ALT = {"image/png": {"alt": "Figure 1. A dot"}}


def display(mime, data, metadata=None):
    return new_output("display_data", {mime: data}, metadata=metadata or {})


def ran(source, outputs=()):
    return new_code_cell(source, execution_count=1, outputs=list(outputs))


FIGURE = ran("plot()", [display("image/png", "iVBORw0KGgo=", ALT)])
TABLE = ran("show(claims)", [display("text/html", CLAIMS)])
ERROR = ran("1 / 0", [new_output("error", ename="ValueError", evalue="no lung")])


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([FIGURE, TABLE], ""),
        ([FIGURE, ERROR, TABLE], "code cell 2: ValueError: no lung"),
        ([FIGURE, new_code_cell("a")], "code cell 2: it did not run to its end"),
        ([ran("plot()"), TABLE], "code cell 1: 0 of 1 figures"),
        ([FIGURE], "no code cell shows the table of claims"),
    ],
)
def test_incomplete_run_is_named_with_its_cell(cells, fault):
    committed = new_notebook(cells=[FIGURE, TABLE])
    message = check_run.find_fault(committed, new_notebook(cells=cells))
    assert message.startswith(fault)
    assert bool(message) == bool(fault)


@pytest.mark.parametrize(
    ("text", "title"), [("# PHANTOMS", "PHANTOMS"), ("452 of 452", "REAL IMAGES")]
)
def test_complete_run_says_which_images_it_used(text, title, tmp_path, capsys):
    cell = ran("describe()", [new_output("stream", text=text)])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[cell, TABLE]), path)
    check_run.main(path, path)
    assert f"# {title}" in capsys.readouterr().out


def test_report_fetches_nothing_and_keeps_links_formulas_and_descriptions():
    text = new_markdown_cell("# [5 points] Plot\n$p_t^\\gamma$ [up](#[5-points]-Plot)")
    notebook = new_notebook(cells=[text, FIGURE])
    page = BeautifulSoup(report.join({"a": notebook, "b": notebook}), "html.parser")
    assert not page.select("script, link, iframe")
    assert len(page.select("math")) == 2
    for image in page.select("img"):
        assert image["alt"] == "Figure 1. A dot"
        assert image["src"].startswith("data:")
    links = [link["href"] for link in page.find_all("a", string="up")]
    assert links == [f"#{heading['id']}" for heading in page.select("h1")]
    assert len(set(links)) == 2


def test_cells_on_real_images_are_not_compared_on_phantoms(tmp_path):
    old = [new_output("stream", text="old\n")]
    note = "# NBVAL_CHECK_OUTPUT\nimport sys\nprint('note', file=sys.stderr)"
    cells = [
        ran("# NBVAL_CHECK_OUTPUT\nprint('new')", old),
        ran("# NBVAL_CHECK_OUTPUT\nprint('new again')", old),
        ran(note),
    ]
    cells[0].metadata["tags"] = ["real-images"]
    nbformat.write(new_notebook(cells=cells), tmp_path / "small.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval-lax"]
    done = subprocess.run(
        [*command, "--nbval-current-env", tmp_path],
        cwd=ROOT,
        env=os.environ | {"XRAY_DATA": "phantom", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert re.search("FAILED .*Cell 1", done.stdout)
    assert "1 failed, 2 passed" in done.stdout


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile, a virtual environment of its making and another."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text("utf-8"))
    (tmp_path / "requirements-dev.txt").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "made-by-make").touch()
    (tmp_path / ".venv" / "complete").touch()
    (tmp_path / "thesis").mkdir()
    return tmp_path


def make(project, *arguments, **variables):
    # A `make` that runs these tests would pass its own VENV on.
    variables = os.environ | {"MAKEFLAGS": ""} | variables
    return subprocess.run(
        ["make", *arguments],
        cwd=project,
        env=variables,
        capture_output=True,
        text=True,
    )


def test_clean_removes_nothing_of_the_user(project):
    make(project, "clean", VENV="thesis")
    assert not (project / ".venv").exists()
    make(project, "clean", "VENV=thesis")
    assert (project / "thesis").exists()


@pytest.mark.parametrize(
    ("venv", "remedy"),
    [
        ("thesis", "Remedy: move thesis away"),
        (".venv", "is not a working Python 3.11 to 3.13. Remedy: make clean"),
    ],
)
def test_unusable_environment_is_named_with_its_remedy(project, venv, remedy):
    done = make(project, "lint", f"VENV={venv}")
    assert done.returncode != 0
    assert remedy in done.stdout


@pytest.mark.parametrize(("value", "folder"), [("no", ".venv"), ("1", ".venv-locked")])
def test_no_means_no(project, value, folder):
    (project / "constraints.txt").touch()
    done = make(project, "-n", "run", f"LOCKED={value}", LOCKED="1")
    assert f"{folder}/bin/python -m papermill" in done.stdout


def test_submission_without_a_repository_fails(project):
    assert make(project, "submission").returncode != 0
    assert not (project / "submission.zip").exists()


def requirements(name):
    lines = re.findall(r"^\w.*", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    parsed = [Requirement(line) for line in lines]
    return {requirement.name: requirement.specifier for requirement in parsed}


@pytest.mark.parametrize("name", [".ci/colab-2.19.txt", ".ci/colab-2.20.txt"])
def test_versions_of_colab_satisfy_the_requirements(name):
    ranges = requirements("requirements.txt")
    pins = requirements(name)
    assert {"tensorflow", "keras", "numpy"} <= set(pins)
    for package, pin in pins.items():
        version = str(pin).removeprefix("==").replace("*", "0")
        assert package == "ipython" or version in ranges[package]


def test_constraints_pin_every_requirement():
    names = set(requirements("requirements.txt"))
    names.update(requirements("requirements-dev.txt"))
    assert set(requirements("constraints.txt")) == names


def test_missing_packages_are_looked_for_among_the_requirements():
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipykernel"}
    packages = {names.get(package, package) for package in PACKAGES}
    assert packages | {"tensorflow"} == set(requirements("requirements.txt"))
