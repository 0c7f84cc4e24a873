"""Shared fixtures: where the real images and weights lie, if they are here at all."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Skip the tests marked `shared` where the folder ../shared is absent, and say so."""
    if not (ROOT.parent / "shared" / "data").is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs the real images of ../shared"))


@pytest.fixture(scope="session")
def toy():
    """Views and targets of `toys.two_classes`."""
    from toys import two_classes  # here, so that tests without it do not import Keras

    return two_classes()
