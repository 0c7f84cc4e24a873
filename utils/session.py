"""What surrounds a run: its options, what it displays, and a quiet start."""

import contextlib
import logging
import os
import sys
import tempfile
from pathlib import Path

from IPython.display import Markdown, display

PROFILES = ("full", "quick")


def say(text, prefix=""):
    """Display a paragraph made from the run's own numbers; `prefix` (phantom images) leads it in bold."""
    display(Markdown(f"**{prefix}:** {text}" if prefix else text))


def show(frame, title=""):
    """Display a table (pandas.DataFrame) under its source's title (phantom images), if that has one."""
    if title:
        display(Markdown(f"**{title}**"))
    display(frame)


@contextlib.contextmanager
def quiet_startup():
    """Silence the file descriptor of stderr while a backend is imported.

    TensorFlow's C++ runtime prints notes about the processor there, before any log level is heeded.
    Python's own errors still come through: they are raised, not printed. TensorFlow's warnings about speed
    (retracing) are no reader's concern either.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its import resets the level


def choose_profile(requested, is_phantom):
    """The profile to run, "full" or "quick".

    `requested` (str or None) wins; else real images get "full", and phantoms "quick", because long training
    on phantoms proves nothing. ValueError if `requested` is neither.
    """
    if not requested:
        return "quick" if is_phantom else "full"
    if requested not in PROFILES:
        raise ValueError(f"XRAY_PROFILE must be one of {', '.join(PROFILES)}, not {requested!r}")
    return requested


def weight_options(requested):
    """Where pre-trained weights may come from, as keyword arguments of the model builders.

    `requested` (str or None): None or "" lets Keras download them; "none" forces He initialisation; else a
    folder of partial weights to use where the download fails. FileNotFoundError if there is no such folder.
    """
    if requested == "none":
        return {"weight_folder": None, "download": False}
    if requested and not os.path.isdir(requested):
        raise FileNotFoundError(
            f"XRAY_WEIGHTS names {requested!r}, which is no folder. Name the folder of the .npz files, "
            "'none' for random weights, or unset it."
        )
    return {"weight_folder": requested or None, "download": True}


def run_folder(cache, fresh):
    """Where training runs are kept and taken up: in the cache, or, if `fresh`, in a new empty folder."""
    return Path(tempfile.mkdtemp(prefix="xray-runs-")) if fresh else Path(cache) / "runs"


def peak_memory():
    """Peak resident memory of this process in GiB, or NaN where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
