"""CI: its stages are told apart and counted, and every version that is promised is in some stage."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci"
STAGES = ["test", "colab-2.19", "colab-2.20", "jax"]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def run(tmp_path):
    """Run CI where every Python fails as a shim of pyenv does, and make leaves a note instead of working."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {name: "exit 127" for name in ("python3", "python3.12", "python3.13")}
    scripts["make"] = f'echo "make $*, cache $XRAY_CACHE" >> {tmp_path}/made; exit "$MADE"'
    for name, line in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)

    def start(stages, made=0, **variables):
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(tmp_path), "STAGES": stages, "MADE": str(made), "PYTHON": "python3"}
        environment = {k: v for k, v in os.environ.items() if k != "STRICT"} | own | variables
        return subprocess.run([CI / "run"], env=environment, capture_output=True, text=True)

    return start


def outcomes(done):
    """The summary at the end: stage -> outcome."""
    summary = done.stdout.split("All stages:\n")[1]
    return {line.split()[0]: line.split()[1] for line in summary.splitlines()}


def test_passing_stage_has_its_own_cache_and_passes(run, tmp_path):
    done = run("test")
    assert done.returncode == 0 and outcomes(done) == {"test": "passed"}
    assert re.search(r"^make test VENV=\S+ PYTHON=python3, cache \S+", (tmp_path / "made").read_text())


def test_failing_stage_fails_all_and_the_later_ones_still_run(run):
    done = run("test colab-2.19 jax", made=2)
    assert done.returncode == 1
    assert outcomes(done) == {"test": "FAILED", "colab-2.19": "SKIPPED", "jax": "FAILED"}


def test_stage_without_its_python_is_skipped_loudly(run):
    done = run("colab-2.20")
    assert done.returncode == 0 and outcomes(done) == {"colab-2.20": "SKIPPED"}
    assert "There is no Python 3.13 here." in done.stdout
    assert run("colab-2.20", STRICT="1").returncode == 1


def test_unknown_stage_fails_and_names_the_others(run):
    done = run("tset")
    assert done.returncode == 1 and all(stage in done.stdout for stage in STAGES)


def test_all_stages_run_without_a_choice(run):
    assert list(outcomes(run(""))) == STAGES


def test_no_stage_is_begun_that_would_end_too_late(run):
    done = run("test jax", MINUTES="-1")
    assert done.returncode == 0 and outcomes(done) == {"test": "SKIPPED", "jax": "SKIPPED"}
    assert "There is no time left for it: 0 of -1 minutes are over." in done.stdout
    assert run("test", MINUTES="-1", STRICT="1").returncode == 1


def test_pins_that_do_not_hold_are_named(tmp_path):
    def check(text):
        (tmp_path / "pins.txt").write_text(text)
        command = [sys.executable, CI / "check_pins.py", tmp_path / "pins.txt"]
        return subprocess.run(command, capture_output=True, text=True)

    assert check("# a note\npytest>=8\n").returncode == 0
    wrong = check("pytest>=8\nnumpy==1.0.*\n")
    assert wrong.returncode == 1 and "numpy==1.0.* is now" in wrong.stderr and "pytest>" not in wrong.stderr
    assert check("# nothing\n").returncode == 1


@pytest.mark.parametrize("name", ["colab-2.19", "colab-2.20"])
def test_requirements_allow_what_colab_has(name):
    """Fast, without an installation: each pin lies in the requirement's range."""
    requirements = pytest.importorskip("packaging.requirements")

    def read(path):
        lines = path.read_text(encoding="utf-8").splitlines()
        parsed = [requirements.Requirement(line) for line in lines if line and not line.startswith("#")]
        return {requirement.name: requirement.specifier for requirement in parsed}

    pins, ranges = read(CI / f"{name}.txt"), read(ROOT / "requirements.txt")
    assert {"tensorflow", "keras", "numpy"} <= set(pins)
    for package, pin in pins.items():
        assert str(pin).removeprefix("==").replace("*", "0") in ranges[package], package


def test_workflow_runs_every_stage_and_python():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    calls = [step for step in steps if step.get("run") == ".ci/run"]
    assert sorted(" ".join(step["env"]["STAGES"] for step in calls).split()) == sorted(STAGES)
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    set_up = [step["with"]["python-version"].split() for step in steps if "python-version" in str(step)]
    assert ["3.12", "3.13"] in set_up
