"""Helpers of the two notebooks: data, models, training, statistics and figures."""

from importlib.util import find_spec

PACKAGES = (
    "IPython",
    "PIL",
    "imagehash",
    "joblib",
    "keras",
    "matplotlib",
    "numpy",
    "pandas",
    "pooch",
    "scipy",
    "sklearn",
)

missing = [name for name in PACKAGES if find_spec(name) is None]
if missing:
    raise ImportError(
        f"This Python has no {', '.join(missing)}. "
        "Remedy: run %pip install -r requirements.txt in a cell, "
        "then restart the kernel."
    )
