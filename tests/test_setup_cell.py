"""The notebooks' first cell, run where Colab would run it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
COLAB = "import sys\nsys.modules['google.colab'] = sys\n"
SHOW = "\nimport utils\nprint(utils.VERSION)\n"
INSTALLED = "requirements.txt\n"  # what pip was asked for
# Stands in for pip, which Python first looks for in its working directory.
PIP = "import os, sys\nprint(os.path.basename(sys.argv[-1]))"
# Paths that a shell would take apart.
FOLDER = "a folder & more"
REMOTE = "origin & more"


@pytest.fixture(scope="module")
def cell():
    cells = nbformat.read(ROOT / "Task1_binary.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if cell.cell_type == "code")
    lines = source.splitlines()
    assert lines[0].startswith("REPOSITORY = ")
    return "\n".join(lines[1:])  # whatever address has been filled in


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / FOLDER
    path.mkdir()
    (path / "pip.py").write_text(PIP)
    return path


def project(version):
    return {
        "utils/__init__.py": f"VERSION = {version!r}",
        "utils/manifest.csv": "path",
    }


def write(folder, version):
    for name, text in project(version).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_zip(path, version):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in project(version).items():
            archive.writestr(f"covid-xrays/{name}", text)


def commit(repository, version):
    write(repository, version)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", version]):
        subprocess.run(["git", "-C", repository, *command], check=True)


def run(cell, folder, repository="", before=COLAB):
    code = f"{before}REPOSITORY = {str(repository)!r}\n{cell}{SHOW}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_newest_zip_is_taken_beside_an_incomplete_copy(cell, folder):
    (folder / "utils").mkdir()
    (folder / "utils/other.py").touch()
    write_zip(folder / "submission.zip", "old")
    os.utime(folder / "submission.zip", (0, 0))
    assert run(cell, folder).stdout == INSTALLED + "old\n"
    write_zip(folder / "submission (1).zip", "new")
    assert run(cell, folder).stdout == INSTALLED + "new\n"


def test_newest_commit_is_taken(cell, folder, tmp_path):
    for version in ("old", "new"):
        commit(tmp_path / REMOTE, version)
        done = run(cell, folder, tmp_path / REMOTE)
        assert done.stdout == f"{INSTALLED}{version}\n", done.stderr


def test_incomplete_zip_is_refused(cell, folder):
    write_zip(folder / "submission.zip", "new")
    content = (folder / "submission.zip").read_bytes()
    (folder / "submission.zip").write_bytes(content[:-40])
    done = run(cell, folder)
    assert done.returncode == 1
    assert "submission.zip is not a zip file" in done.stderr


def test_failed_clone_is_refused(cell, folder):
    done = run(cell, folder, "absent")
    assert done.returncode == 1
    assert "repository 'absent' does not exist" in done.stderr


def test_nothing_there_says_what_to_do(cell, folder):
    assert (
        "Upload submission.zip here, or fill in REPOSITORY" in run(cell, folder).stderr
    )


def test_local_clone_is_left_alone(cell, folder):
    write(folder, "local")
    done = run(cell, folder, "absent", before="")
    assert done.stdout == "local\n"
    assert done.stderr == ""


def test_missing_packages_are_named_with_the_command():
    command = [sys.executable, "-S", "-c", "import utils"]  # -S: no site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "no IPython, PIL" in done.stderr
    assert "%pip install -r requirements.txt" in done.stderr
