"""How nbval compares the notebooks' cells; see `make regress` and `make notebooks`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notes of its runtime

import pytest


def pytest_collectstart(collector):
    """Let no note on stderr, such as TensorFlow's, fail a cell."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    """Compare cells tagged `real-images` only where the real images are used."""
    cells = [item for item in items if hasattr(item, "cell")]
    if not cells or not uses_phantoms():
        return
    if os.environ.get("XRAY_PROFILE") == "full":
        raise pytest.UsageError(
            "There are no real images to compare with. Remedy: put two/ and all/ into "
            "data/, name their folder (XRAY_DATA=/path/to/it), or set QUICK=1."
        )
    for item in cells:
        if "real-images" in item.cell.metadata.get("tags", []):
            item.options["check"] = False


def uses_phantoms():
    """Whether the notebooks will run on phantoms, decided as they decide it."""
    folder = os.environ.get("XRAY_DATA", "")
    if folder == "phantom":
        return True
    from utils import datasets  # here, because only the notebooks need it

    try:
        return datasets.find_challenge(folder).is_phantom
    except datasets.DataError as error:
        raise pytest.UsageError(str(error)) from error
