"""Keep training runs on disk, named by all that they depend on, so that nothing stale is ever shown."""

import ast
import importlib.metadata
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import keras
import numpy as np

CODE = ("chains.py", "features.py", "losses.py", "models.py", "runs.py", "training.py", "weights.py")


@dataclass
class Run:
    """The state of a run after some epochs: enough to go on, or, once finished, to be shown again."""

    history: dict = field(default_factory=dict)
    seconds: float = 0.0
    state: list = field(default_factory=list)
    optimizer: list = field(default_factory=list)
    best: list | None = None
    finished: bool = False

    @property
    def epochs(self):
        """How many epochs are done."""
        return len(self.history.get("loss", []))


def run_path(folder, model, arrays, settings):
    """The file of a run: its name is a digest of everything that decides the result.

    That is the model's layers, settings and initial weights, the arrays it trains on, the settings of the
    fit, the code of model and loop (without comments and docstrings), the backend and the versions.

    Returns
    -------
    Path, or None if `folder` is None.
    """
    if folder is None:
        return None
    backend = keras.backend.backend()
    versions = [keras.__version__, backend, importlib.metadata.version(backend)]
    parts = [_layers(model), model.get_weights(), arrays, settings, CODE_AS_IMPORTED, versions]
    return Path(folder) / f"run-{joblib.hash(parts)}.npz"


def _layers(model):
    """Class and configuration of every layer, nested ones too, without the names that Keras counts up."""
    described = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            described += _layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            config = {key: value for key, value in layer.get_config().items() if key != "name"}
            described.append(json.dumps([type(layer).__name__, config], default=str, sort_keys=True))
    return described


def _code():
    """The syntax trees of the modules that decide a run, without docstrings."""
    trees = []
    for name in CODE:
        tree = ast.parse(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        trees.append(ast.dump(tree))
    return trees


CODE_AS_IMPORTED = _code()  # a file that is edited while a notebook runs does not change what runs


def save_run(path, run):
    """Write a run aside and move it into place, so that a half-written file is never taken for whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {"state": run.state, "optimizer": run.optimizer, "best": run.best or []}
    arrays = {f"{name}{k:04d}": array for name, items in lists.items() for k, array in enumerate(items)}
    record = json.dumps({"history": run.history, "seconds": run.seconds, "finished": run.finished})
    aside = path.with_suffix(f".{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            np.savez(file, record=np.array(record), **arrays)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load_run(path):
    """The run of a file; None if there is none, or if it cannot be read: it is then trained anew."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(str(arrays.pop("record")))
        lists = {name: [] for name in ("state", "optimizer", "best")}
        for name in sorted(arrays):
            lists[name[:-4]].append(arrays[name])
        best = lists["best"] or None
        return Run(
            record["history"], record["seconds"], lists["state"], lists["optimizer"], best, record["finished"]
        )
    except Exception:  # on broken bytes NumPy and zipfile raise nearly anything
        return None
