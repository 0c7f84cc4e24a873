"""Keras' settings, seeds, gradients and memory."""

import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from utils import environment
from utils.environment import BACKEND


@pytest.mark.parametrize(
    ("requested", "is_phantom", "profile"),
    [
        ("", False, "full"),
        ("", True, "quick"),
        ("full", True, "full"),
    ],
)
def test_the_profile_is_requested_or_follows_the_data(requested, is_phantom, profile):
    assert environment.choose_profile(requested, is_phantom) == profile


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="full, quick or empty, not 'fast'"):
        environment.choose_profile("fast", False)


def test_stderr_is_silent_for_a_while_only(capfd):
    with environment.silenced_stderr():
        os.write(2, b"noise of a C++ runtime")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def draw_with(seed):
    environment.prepare_keras(seed)
    weight = keras.initializers.RandomUniform(0, 1)(())
    return [random.random(), np.random.random(), float(weight)]  # noqa: NPY002


def test_the_seed_decides_what_python_numpy_and_keras_draw():
    first = draw_with(1)
    assert first == draw_with(1)
    assert not set(first).intersection(draw_with(2))


def import_with(backend, folder):
    """Import the module in a new process, with another backend and keras.json."""
    settings = '{"floatx": "float16", "image_data_format": "channels_first"}'
    folder.joinpath("keras.json").write_text(settings)
    code = "from utils.environment import keras; print(keras.config.floatx())"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"KERAS_HOME": str(folder), "KERAS_BACKEND": backend},
    )


def test_keras_starts_quietly_and_as_the_networks_expect_it(tmp_path):
    finished = import_with(BACKEND, tmp_path)
    assert finished.stdout == "float32\n"
    assert finished.stderr == ""


def test_another_backend_is_refused_with_a_remedy(tmp_path):
    finished = import_with("numpy", tmp_path)
    assert "Remedy: choose tensorflow or jax" in finished.stderr
