"""The run's surroundings: profile, weight options, a quiet start, and the line that describes the machine."""

import os
import re

import keras
import numpy as np
import pytest

from utils import session
from utils.backend import describe_machine, gradient, has_gpu, release, set_seeds
from utils.session import choose_profile, peak_memory, quiet_startup, weight_options


@pytest.mark.parametrize(
    ("requested", "is_phantom", "expected"),
    [
        (None, False, "full"),
        (None, True, "quick"),
        ("", False, "full"),
        ("", True, "quick"),
        ("quick", False, "quick"),
        ("full", True, "full"),
    ],
)
def test_profile(requested, is_phantom, expected):
    assert choose_profile(requested, is_phantom) == expected


@pytest.mark.parametrize("wrong", ["fast", "FULL", " quick"])
def test_unknown_profile_is_named_with_the_choice(wrong):
    with pytest.raises(ValueError, match=f"XRAY_PROFILE.*full, quick.*{wrong}"):
        choose_profile(wrong, False)


@pytest.mark.parametrize("nothing", [None, ""])
def test_weights_are_downloaded_unless_told_otherwise(nothing):
    assert weight_options(nothing) == {"weight_folder": None, "download": True}


def test_weight_folder_is_the_second_choice_and_none_forbids_the_download(tmp_path):
    assert weight_options(str(tmp_path)) == {"weight_folder": str(tmp_path), "download": True}
    assert weight_options("none") == {"weight_folder": None, "download": False}


def test_missing_weight_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"XRAY_WEIGHTS.*absent.*unset"):
        weight_options(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="no folder"):
        weight_options(str(tmp_path / "file"))


def free_descriptor():
    """The lowest file descriptor that is free; it rises where one is left open."""
    copy = os.dup(1)
    os.close(copy)
    return copy


def test_quiet_startup_silences_what_the_runtime_writes(capfd):
    before = free_descriptor()
    with quiet_startup():
        os.write(2, b"noise of a C++ runtime\n")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"
    assert free_descriptor() == before


def test_quiet_startup_ends_with_an_exception_that_comes_through(capfd):
    with pytest.raises(ImportError, match="broken"), quiet_startup():
        os.write(2, b"noise\n")
        raise ImportError("broken")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_quiet_startup_leaves_stdout_alone(capfd):
    with quiet_startup():
        os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


def test_description_of_the_machine_is_one_line_with_versions_and_backend():
    line = describe_machine()
    backend = keras.backend.backend()
    assert "\n" not in line
    assert f"Keras {keras.__version__} on {backend} " in line and f"{os.cpu_count()} CPU cores" in line
    assert re.search(r"Python 3\.\d+\.\d+", line)
    assert ("no GPU" in line) == (not has_gpu())


def test_seeds_make_python_numpy_and_backend_repeat():
    import random

    def draw(seed):
        set_seeds(seed)
        kernel = float(keras.initializers.RandomUniform(0, 1)(()))  # as the layers draw theirs
        return random.random(), np.random.random(), kernel  # noqa: NPY002

    first, again, other = draw(1), draw(1), draw(2)
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("prefix", ["", "phantom data"])
def test_what_is_said_bears_the_phantoms_name(prefix, monkeypatch):
    shown = []
    monkeypatch.setattr(session, "display", shown.append)
    session.say("The result.", prefix)
    assert [s.data for s in shown] == ["**phantom data:** The result." if prefix else "The result."]


def test_peak_memory_is_in_gib():
    assert np.isnan(peak_memory()) or 0.05 < peak_memory() < 100


def test_runs_are_kept_in_the_cache_or_in_a_new_folder(tmp_path):
    assert session.run_folder(str(tmp_path), fresh=False) == tmp_path / "runs"
    one, other = (session.run_folder(tmp_path, fresh=True) for _ in range(2))
    assert one != other and tmp_path not in one.parents and not any(one.iterdir())


def test_gradient_is_that_of_calculus():
    x = np.array([[1.0, -2.0], [0.5, 3.0]], "float32")
    slope = gradient(lambda x: keras.ops.sum(x**3) + x[0, 0] * x[1, 1], keras.ops.convert_to_tensor(x))
    expected = 3 * x**2 + np.array([[3.0, 0], [0, 1.0]])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slope), expected, rtol=1e-6)


def test_gradient_of_what_does_not_depend_on_x_is_zero():
    slope = gradient(lambda x: keras.ops.convert_to_tensor(2.0), np.ones((2, 3), "float32"))
    assert np.array_equal(keras.ops.convert_to_numpy(slope), np.zeros((2, 3)))


def test_gradient_names_the_backends_that_it_can_use(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(NotImplementedError, match="tensorflow or jax, not torch"):
        gradient(keras.ops.sum, np.ones(2, "float32"))


def test_released_variables_are_empty_where_the_backend_would_keep_them():
    variable = keras.Variable(np.ones((3, 2), "float32"))
    release([variable])
    kept = 0 if keras.backend.backend() == "tensorflow" else 6
    assert np.asarray(keras.ops.convert_to_numpy(variable.value)).size == kept
