"""The run's surroundings: Keras' settings, seeds and backend, the machine, the profile, and what is shown."""

import contextlib
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from utils import session


@pytest.mark.parametrize("is_phantom", [False, True])
def test_profile(is_phantom):
    for nothing in (None, ""):
        assert session.choose_profile(nothing, is_phantom) == ("quick" if is_phantom else "full")
    for wish in ("quick", "full"):
        assert session.choose_profile(wish, is_phantom) == wish
    for wrong in ("fast", "FULL", " quick"):
        with pytest.raises(ValueError, match=f"XRAY_PROFILE must be full or quick, not '{wrong}'"):
            session.choose_profile(wrong, is_phantom)


def test_a_user_s_path_may_begin_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert session.user_path("~/x ü") == tmp_path / "x ü" and session.user_path(tmp_path) == tmp_path
    assert session.user_path("~no-such-user/x") == Path("~no-such-user/x")


def free_descriptor():
    """The lowest file descriptor that is free; it rises where one is left open."""
    copy = os.dup(1)
    os.close(copy)
    return copy


def test_quiet_startup_silences_what_the_runtime_writes_and_nothing_else(capfd):
    before = free_descriptor()
    with session.quiet_startup():
        os.write(2, b"noise of a C++ runtime\n")
        os.write(1, b"result\n")
    with pytest.raises(ImportError, match="broken"), session.quiet_startup():
        os.write(2, b"noise\n")
        raise ImportError("broken")
    os.write(2, b"heard again\n")
    assert capfd.readouterr() == ("result\n", "heard again\n")
    assert free_descriptor() == before


def in_new_process(code, home, keras_json, **variables):
    """Run code in a process whose keras.json and environment variables are these: (stdout, stderr)."""
    (home / "keras.json").write_text(keras_json)
    env, root = os.environ | {"KERAS_HOME": str(home)} | variables, Path(session.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=root)
    return ran.stdout, ran.stderr


def test_keras_is_set_quietly_whatever_keras_json_says(tmp_path):
    code = "from utils.session import keras, prepare_keras\nprepare_keras(1)\nconfig = keras.config\n"
    code += "print(config.image_data_format(), config.floatx(), config.dtype_policy().name)"
    other = '{"floatx": "float16", "image_data_format": "channels_first"}'
    assert in_new_process(code, tmp_path, other) == ("channels_last float32 float32\n", "")


@pytest.mark.parametrize("said", ["torch", "theano", "floatx"])
def test_surroundings_that_keras_cannot_start_in_are_refused_with_the_remedy(said, tmp_path):
    keras_json = '{"floatx": "float8"}' if said == "floatx" else '{"backend": "torch"}'
    variables = {"KERAS_BACKEND": "theano" if said == "theano" else ""}
    _, error = in_new_process("import utils.session", tmp_path, keras_json, **variables)
    assert re.search(rf"RuntimeError: Keras cannot be used: .*{said}.*use tensorflow or jax .*\n$", error)


OTHER = {
    "3.9.2 on ": (keras, "__version__", "3.9.2"),
    "on torch": (keras.backend, "backend", lambda: "torch"),
}


@pytest.mark.parametrize("said", OTHER)
def test_another_keras_is_refused_with_the_remedy(said, monkeypatch):
    monkeypatch.setattr(*OTHER[said])
    with pytest.raises(RuntimeError, match=rf"{said}.*: use tensorflow or jax .*KERAS_BACKEND.*>=3\.10"):
        runpy.run_path(session.__file__)


def test_seeds_make_python_numpy_and_backend_repeat():
    def draw(seed):
        session.prepare_keras(seed)
        kernel = float(keras.initializers.RandomUniform(0, 1)(()))  # as the layers draw theirs
        return random.random(), np.random.random(), kernel  # noqa: NPY002

    first, again, other = draw(1), draw(1), draw(2)
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))


def test_description_of_the_machine_is_one_line_with_versions_and_backend():
    line = session.describe_machine()
    versions = rf"Python 3\.\d+\.\d+, Keras {re.escape(keras.__version__)} on {keras.backend.backend()} \d"
    assert re.fullmatch(rf"{versions}.*, {os.cpu_count()} CPU cores", line)
    assert ("no GPU" in line) == (not session.has_gpu())


def test_gradient_is_that_of_calculus_and_zero_of_what_does_not_depend_on_x():
    x = np.array([[1.0, -2.0], [0.5, 3.0]], "float32")
    slope = session.gradient(
        lambda x: keras.ops.sum(x**3) + x[0, 0] * x[1, 1], keras.ops.convert_to_tensor(x)
    )
    expected = 3 * x**2 + np.array([[3.0, 0], [0, 1.0]])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slope), expected, rtol=1e-6)

    slope = session.gradient(lambda x: keras.ops.convert_to_tensor(2.0), np.ones((2, 3), "float32"))
    assert np.array_equal(keras.ops.convert_to_numpy(slope), np.zeros((2, 3)))


def test_released_variables_are_empty_where_the_backend_would_keep_them():
    variable = keras.Variable(np.ones((3, 2), "float32"))
    session.release([variable])
    kept = 0 if session.BACKEND == "tensorflow" else 6
    assert np.asarray(keras.ops.convert_to_numpy(variable.value)).size == kept


def test_the_clock_gives_each_section_its_own_seconds(monkeypatch):
    now = iter([100, 130, 145, 160, 190, 220])
    monkeypatch.setattr(session.time, "perf_counter", lambda: next(now))
    clock = session.Clock()
    for name in ("first", "second", "first"):  # a cell that is run again
        clock(name)
    seconds = {"first": 45, "second": 15, "all so far": 90}
    assert clock.table()["seconds"].to_dict() == seconds and clock.minutes() == 2


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: texts and tables."""
    shown = []
    monkeypatch.setattr(session, "display", lambda *items: shown.extend(getattr(i, "data", i) for i in items))
    return shown


def claims(holds, reference):
    session.show_claims({"water is wet": True, "snow is black": holds}, reference, "phantom data")


def ranges(holds, reference):
    limits = {"AUC": (0.5, 0.75, "five seeds"), "loss": (0, 0.4 + holds, "one seed")}
    session.check_ranges({"loss": np.float64(0.5), "AUC": 0.75, "other": 1}, limits, reference)


@pytest.mark.parametrize("check", [claims, ranges])
@pytest.mark.parametrize("regress", ["1", ""])
def test_only_a_reference_run_may_stop_at_what_differs(check, regress, shown, monkeypatch):
    monkeypatch.setenv("XRAY_REGRESS", regress)
    check(True, True), check(False, False), check(True, False)
    said = pytest.raises(AssertionError, match=r"differs from the committed one:\n(snow is black|loss: .*)$")
    with said if regress else contextlib.nullcontext():
        check(False, True)


def test_claims_and_ranges_are_shown_with_what_holds(shown):
    claims(True, False), claims(False, False), ranges(False, False), session.show("a table")
    assert shown[0] == shown[3] == "**phantom data**" and "Not every claim holds in this run" in shown[2]
    assert shown[1].to_numpy().tolist() == [["water is wet", "yes"], ["snow is black", "yes"]]
    assert shown[4]["holds in this run"].tolist() == ["yes", "no"] and shown[6] == "a table"
    assert shown[5].loc["AUC"].tolist() == [0.75, 0.5, 0.75, "five seeds", True]
    assert shown[5].loc["loss"].tolist() == [0.5, 0, 0.4, "one seed", False] and len(shown[5]) == 2
    with pytest.raises(KeyError, match="absent"):
        session.check_ranges({"loss": 0.5}, {"absent": (0, 1, "")}, False)
