"""The notebooks' first cell: each way to the project's code works or is named, on a stand-in of Colab."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"utils/__init__.py": "", "utils/manifest.csv": "path\n", "requirements.txt": "imagehash\n"}
# Plays Colab: the folder that it starts in stands first on sys.path and stays there, and files.upload keeps a
# file that is there already and saves the new one under another name.
COLAB = """
import json, os, pathlib, sys, types
cell, colab, zips = (*json.loads(sys.argv[1]), True, [])[:3]
def upload():
    for path in map(pathlib.Path, zips):
        free = [p for p in (path.name, f"{path.stem} (1){path.suffix}") if not os.path.exists(p)]
        pathlib.Path(free[0]).write_bytes(path.read_bytes())
    return {os.path.basename(path): b"" for path in zips}
if colab:
    sys.modules["google.colab"] = types.SimpleNamespace(files=types.SimpleNamespace(upload=upload))
sys.path[:] = [os.getcwd(), *sys.path[1:], ""]
exec(cell, {})
import utils
print(os.path.relpath(os.path.dirname(utils.__file__)), os.getcwd())
"""


@pytest.fixture(scope="module")
def cell():
    cells = nbformat.read(ROOT / "Task1_binary.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub('^REPOSITORY = "[^"]*"', 'REPOSITORY = ""', source)  # whatever `make badge` has filled in


@pytest.fixture
def start(tmp_path):
    """Run a cell in the folder `content`, with a pip that leaves a note instead of installing."""
    write(tmp_path, {"bin/pip": f'#!/bin/sh\necho "$@" > {tmp_path}/installed\n', "content/notes.txt": ""})
    (tmp_path / "bin" / "pip").chmod(0o755)
    own = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    where = {"cwd": tmp_path / "content", "env": os.environ | own, "capture_output": True, "text": True}

    def run(*given):
        return subprocess.run([sys.executable, "-c", COLAB, json.dumps(given, default=str)], **where)

    return run


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def pack(path, files, top="xray/"):
    with zipfile.ZipFile(path, "w") as archive:
        [archive.writestr(f"{top}{name}", content) for name, content in files.items()]
    return path


@pytest.fixture
def zips(tmp_path):
    ours = pack(tmp_path / "xray.zip", OURS)
    back = {name.replace("/", "\\"): text for name, text in OURS.items()}
    return {
        "plain": [ours],
        "flat": [pack(tmp_path / "flat.zip", OURS, "")],
        "backslashes": [pack(tmp_path / "windows.zip", back, "xray\\")],
        "nested": [pack(tmp_path / "outer.zip", {"notes.txt": "", "xray.zip": ours.read_bytes()})],
        "one of two": [pack(tmp_path / "a.zip", {"utils/manifest.py": ""}), ours],
        "two": [ours, pack(tmp_path / "xray-old.zip", OURS)],
    }


@pytest.mark.parametrize("kind", ["plain", "flat", "backslashes", "nested", "one of two", "two"])
def test_zip_is_taken_whatever_package_utils_lies_beside(kind, cell, zips, start, tmp_path):
    write(tmp_path / "content", {"utils/__init__.py": "raise ImportError", "utils/other.py": ""})
    done = start(cell, True, zips[kind])
    assert "Code: submission/" in done.stdout and done.stdout.split("\n")[-2].startswith("utils ")
    assert ("/utils, not submission/xray-old.zip/" in done.stdout) == (kind == "two")
    assert (tmp_path / "installed").read_text().split() == ["install", "-qr", "requirements.txt"]
    again = start(cell)  # after a restart of the runtime, with nothing uploaded
    assert again.stdout == done.stdout


@pytest.mark.parametrize("colab", [False, True])
def test_utils_beside_the_notebook_is_taken(colab, cell, start, tmp_path):
    write(tmp_path / "content", OURS)
    done = start(cell, colab)
    assert done.returncode == 0 and f"utils {tmp_path / 'content'}\n" in done.stdout, done.stderr
    assert (tmp_path / "installed").exists() == colab  # never unasked into a reader's own Python


def test_repository_is_cloned(cell, start, tmp_path):
    write(tmp_path / "origin", OURS)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "Begin"]):
        subprocess.run(["git", "-C", tmp_path / "origin", *command], check=True)
    done = start(cell.replace('REPOSITORY = ""', f'REPOSITORY = "{tmp_path / "origin"}"'))
    assert done.stdout.endswith("content/submission/clone\n"), done.stderr


@pytest.mark.parametrize("way", ["no Colab", "nothing uploaded", "no zip", "another zip", "no repository"])
def test_nothing_found_says_what_to_do_and_a_second_try_succeeds(way, cell, zips, start, tmp_path):
    (tmp_path / "wrong").mkdir()
    wrong = pack(tmp_path / "wrong" / "xray.zip", {"utils/other.py": ""})
    if way == "no zip":
        wrong.write_text("no archive")
    source = cell.replace('REPOSITORY = ""', 'REPOSITORY = "absent.git"') if way == "no repository" else cell
    done = start(source, way != "no Colab", [wrong] if "zip" in way else [])
    assert done.returncode == 1 and "give its repository or its zip" in done.stderr
    assert ("absent.git" in done.stdout) == (way == "no repository")  # git's own words
    assert start(cell, True, zips["plain"]).returncode == 0
