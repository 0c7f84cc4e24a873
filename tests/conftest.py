"""The folder of the real images and weights, which not every machine has."""

import os
from pathlib import Path

import pytest

# TensorFlow's notes would otherwise be part of what tests capture.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHARED = Path(__file__).resolve().parents[2] / "shared"
NOT_HERE = f"needs the real images and weights of {SHARED}"


def pytest_collection_modifyitems(items):
    """Skip the tests marked `shared` where the folder is missing."""
    if SHARED.is_dir():
        return
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=NOT_HERE))


@pytest.fixture(scope="session")
def shared():
    """The folder of the real images and weights."""
    if not SHARED.is_dir():
        pytest.skip(NOT_HERE)
    return SHARED
