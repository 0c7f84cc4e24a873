"""The zip to hand in: exactly the tracked files, the same bytes each time, and what the setup cell takes."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

import submission

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    ".ci/run": "#!/bin/sh\n",
    ".gitignore": ".venv/\nreport/\n__pycache__/\n*.part\nbenchmarks/*.csv\nsubmission.zip\n",
    "Task1.ipynb": "{}",
    "benchmarks/time.py": "",
    "requirements.txt": "",
    "utils/__init__.py": "NAME = 'submitted'\n",
    "utils/manifest.csv": "näme\n",
    "utils/models.py": "",
}
IGNORED = [".venv/lib/a.py", "utils/__pycache__/b.pyc", "c.part", "benchmarks/d.csv", "report/report.html"]
SETUP = """
import sys, types
files = types.SimpleNamespace(upload=lambda: {"submission (1).zip": b""})
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.SimpleNamespace(files=files)
exec(sys.argv[1])
sys.path.insert(0, "")
import utils
print(utils.NAME, Path.cwd().name)
"""


@pytest.fixture
def tree(tmp_path):
    """A small project with files that git ignores; no repository."""
    root = tmp_path / "project"
    for name, text in {**FILES, **dict.fromkeys(IGNORED, "")}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / ".ci/run").chmod(0o755)
    return root


@pytest.fixture
def repository(tree):
    """The same as a git repository, with a file that is neither tracked nor ignored."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    subprocess.run(["git", "-C", tree, "init", "-q"], check=True)
    subprocess.run(["git", "-C", tree, "add", "."], check=True)
    (tree / "notes.txt").write_text("not tracked")
    return tree


def contents(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def expected(*more):
    return sorted(f"{submission.TOP}/{name}" for name in (*FILES, *more))


def test_zip_holds_exactly_the_tracked_files(repository):
    names = submission.write(repository, repository / "submission.zip")
    found = contents(repository / "submission.zip")
    assert names == list(found) == expected()
    assert {name: found[f"{submission.TOP}/{name}"].decode() for name in FILES} == FILES
    assert not list(repository.glob(".*.part"))


def test_without_git_it_holds_what_is_not_ignored(tree):
    for name in ("submission.zip", "again.zip"):  # the first one is ignored, the second one is itself
        submission.write(tree, tree / name)
        assert sorted(contents(tree / name)) == expected()


def test_bytes_are_the_same_each_time_and_depend_on_the_files_alone(repository, tmp_path):
    one, two, three = (tmp_path / f"{n}.zip" for n in "123")
    submission.write(repository, one)
    for path in repository.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    submission.write(repository, two)
    assert one.read_bytes() == two.read_bytes()
    (repository / "utils/models.py").write_text("changed")
    submission.write(repository, three)
    assert one.read_bytes() != three.read_bytes()


def test_programs_stay_programs(tree, tmp_path):
    submission.write(tree, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    assert (
        modes[f"{submission.TOP}/.ci/run"] == 0o100755
        and modes[f"{submission.TOP}/utils/models.py"] == 0o100644
    )


def test_report_is_added_if_it_was_made_after_the_notebooks(repository, tmp_path):
    report, notebook = repository / submission.REPORT, repository / "Task1.ipynb"
    report.write_bytes(b"%PDF")
    os.utime(notebook, (report.stat().st_mtime - 5,) * 2)
    assert sorted(submission.write(repository, tmp_path / "x.zip")) == expected("report/report.pdf")
    os.utime(notebook, (report.stat().st_mtime + 5,) * 2)
    with pytest.raises(ValueError, match="older than Task1.ipynb. Run `make report`"):
        submission.write(repository, tmp_path / "y.zip")
    assert not (tmp_path / "y.zip").exists()


def test_tracked_file_that_is_missing_is_named(repository, tmp_path):
    (repository / "utils/models.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"utils.models\.py is tracked, but missing"):
        submission.write(repository, tmp_path / "x.zip")


def test_walk_finds_all_that_git_tracks():
    """So that the zip's own zip, made where there is no git, loses nothing."""
    if not (tracked := submission.tracked(ROOT)):
        pytest.skip("no git repository")
    assert set(tracked) <= set(submission.walked(ROOT))


def test_setup_cell_of_the_notebooks_takes_the_zip_on_colab(tree, tmp_path):
    cells = nbformat.read(ROOT / "Task1_binary.ipynb", as_version=4).cells
    setup = next(cell.source for cell in cells if cell.cell_type == "code")
    (tmp_path / "content").mkdir()
    submission.write(
        tree, tmp_path / "content" / "submission (1).zip"
    )  # as a browser names a second download
    command = [sys.executable, "-c", SETUP, setup]
    run = subprocess.run(command, cwd=tmp_path / "content", capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == [f"submitted {submission.TOP}"], run.stderr
