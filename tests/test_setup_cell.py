"""The notebooks' first cell: it finds `utils` in every way that it offers, on a stand-in of Colab."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FORM = re.compile(r'REPOSITORY = "[^"]*"')
# Plays Colab: runs cells one after the other, hands out a zip, keeps pip from running, tells what came of it.
COLAB = """
import importlib.util, json, os, subprocess, sys, types
options = json.loads(sys.argv[1])
seen = {"uploads": 0, "pip": []}
if options["colab"]:
    def upload():
        seen["uploads"] += 1
        return {name: b"" for name in options["zips"]}
    files = types.SimpleNamespace(upload=upload)
    sys.modules["google"] = types.ModuleType("google")
    sys.modules["google.colab"] = types.ModuleType("google.colab")
    sys.modules["google.colab"].files = files
run, find_spec = subprocess.run, importlib.util.find_spec
def run_but_pip(command, **kwargs):
    if "pip" not in command:
        return run(command, **kwargs)
    seen["pip"].append(command[command.index("pip") :])
subprocess.run = run_but_pip
importlib.util.find_spec = lambda name: None if name in options["missing"] else find_spec(name)
sys.path.insert(0, "")  # as IPython does: modules are looked for in the working folder
for cell in options["cells"]:
    exec(compile(cell, "setup cell", "exec"), {})
import utils
print(json.dumps({**seen, "cwd": os.getcwd(), "utils": utils.__file__}))
"""


@pytest.fixture(scope="module")
def cell():
    cells = nbformat.read(ROOT / "Task1_binary.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if cell.cell_type == "code")
    assert re.match(FORM, source)
    return re.sub(FORM, 'REPOSITORY = ""', source)  # whatever `make badge` has filled in


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the git repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def archive(tracked, tmp_path_factory):
    """The submission as a zip with one top folder."""
    path = tmp_path_factory.mktemp("zip") / "xrays.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in tracked:
            file.write(ROOT / name, f"xrays-main/{name}")
    return path


@pytest.fixture(scope="module")
def repository(tracked, tmp_path_factory):
    path = tmp_path_factory.mktemp("git") / "xrays.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(path)], check=True)
    return path


@pytest.fixture
def start(tmp_path):
    """Start a runtime in an empty folder and run cells; return the process and what it told."""

    def run(*cells, colab=True, zips=(), missing=()):
        options = {"cells": cells, "colab": colab, "zips": [str(z) for z in zips], "missing": missing}
        folder = tmp_path / "content"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", COLAB, json.dumps(options)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None

    return run


def of_repository(cell, address):
    return re.sub(FORM, f'REPOSITORY = "{address}"', cell)


@pytest.mark.parametrize("colab", [False, True])
def test_utils_beside_the_notebook_is_taken(colab, cell, start, tmp_path):
    shutil.copytree(ROOT / "utils", tmp_path / "content" / "utils")
    done, seen = start(cell, colab=colab)
    assert done.returncode == 0, done.stderr
    assert seen["cwd"] == str(tmp_path / "content") and seen["uploads"] == 0 and seen["pip"] == []


def test_repository_is_cloned(cell, repository, start):
    done, seen = start(of_repository(cell, repository))
    assert done.returncode == 0, done.stderr
    assert Path(seen["utils"]).parent.parent == Path(seen["cwd"]) and "submission" in seen["cwd"]
    assert (Path(seen["cwd"]) / "requirements.txt").is_file() and seen["uploads"] == 0


def test_uploaded_zip_is_unpacked(cell, archive, start):
    done, seen = start(cell, zips=[archive])
    assert done.returncode == 0, done.stderr
    assert Path(seen["cwd"]).name == "xrays-main" and Path(seen["utils"]).parent.parent == Path(seen["cwd"])
    assert (Path(seen["cwd"]) / "requirements.txt").is_file() and seen["uploads"] == 1


def test_cell_can_be_run_again(cell, archive, start):
    done, seen = start(cell, cell, zips=[archive])
    assert done.returncode == 0, done.stderr
    assert seen["uploads"] == 1


@pytest.mark.parametrize("way", ["repository", "zip"])
def test_restarted_runtime_takes_what_is_there(way, cell, archive, repository, start):
    source = of_repository(cell, repository) if way == "repository" else cell
    first, before = start(source, zips=[archive])
    again, after = start(source)  # nothing would be uploaded
    assert first.returncode == again.returncode == 0, again.stderr
    assert after["cwd"] == before["cwd"] and after["uploads"] == 0


@pytest.mark.parametrize("way", ["no Colab", "nothing uploaded", "no zip", "another zip", "no repository"])
def test_nothing_found_says_what_to_do(way, cell, start, tmp_path):
    bad = tmp_path / "bad.zip"
    bad.write_text("no archive")
    if way == "another zip":
        with zipfile.ZipFile(bad, "w") as file:
            file.writestr("homework/utils/other.py", "")
    source = of_repository(cell, tmp_path / "absent.git") if way == "no repository" else cell
    zips = [bad] if way in ("no zip", "another zip") else []
    done, _ = start(source, colab=way != "no Colab", zips=zips)
    assert done.returncode == 1
    assert "No utils/ here: put it beside this notebook, or give its repository or zip." in done.stderr


def test_second_try_after_a_wrong_zip_succeeds(cell, archive, repository, start, tmp_path):
    wrong = tmp_path / "wrong.zip"
    with zipfile.ZipFile(wrong, "w") as file:
        file.writestr("homework/notes.txt", "")
    assert start(cell, zips=[wrong])[0].returncode == 1
    done, _ = start(of_repository(cell, repository))
    assert done.returncode == 0, done.stderr


def test_only_what_is_missing_is_installed(cell, archive, start):
    done, seen = start(cell, zips=[archive], missing=("imagehash", "sklearn"))
    assert done.returncode == 0, done.stderr
    (command,) = seen["pip"]
    assert {"imagehash", "scikit-learn"} <= set(command) and "requirements.txt" in command
    assert not {"tensorflow", "keras", "nbval", "jupyter"} & set(command)
