"""Folds kept apart, variants and seeds as single fits would have them, here or on a cluster."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from toys import SETTINGS
from utils.data import ImageSet
from utils.features import apply
from utils.models import build_binary_head
from utils.studies import compare_variants, cross_validate, fit_seeds
from utils.training import fit_classifier
from utils.validation import permutation_test

ROOT = Path(__file__).resolve().parents[1]
FOLDS = [(np.arange(24, 48), np.arange(24)), (np.arange(24), np.arange(24, 48))]


def seeded(seed):
    return build_binary_head(32, seed=seed)


def test_folds_are_predicted_by_models_that_did_not_see_them(toy):
    """Labels of one fold are swapped: that fold is predicted as the others have it, not as itself."""
    views, targets = toy
    swapped = targets.copy()
    swapped[24:] = 1 - swapped[24:]
    settings = {**SETTINGS, "epochs": 8}
    built = []

    def build():
        built.append(build_binary_head(32, seed=1))
        return built[-1]

    probabilities, fits = cross_validate(build, views, swapped, FOLDS, **settings)
    assert len(fits) == len(built) == 2 and probabilities.shape == (48, 1)
    assert probabilities.dtype == np.float32
    wrong = (probabilities > 0.5) != (swapped == 1)
    assert wrong.all()
    assert [fit.history["val_accuracy"][-1] for fit in fits] == [0, 0]
    for train, rest in FOLDS:
        head = build_binary_head(32, seed=1)
        fit_classifier(head, views[:, train], swapped[train], (views[0, rest], swapped[rest]), **settings)
        assert np.array_equal(probabilities[rest], apply(head, views[0, rest]))


def test_variants_are_what_each_alone_would_be(toy):
    views, targets = toy
    variants = {
        "plain": {"build": partial(seeded, 1), "views": views[:1]},
        "faster": {"build": partial(seeded, 2), "views": views, "learning_rate": 1e-2},
    }
    both = compare_variants(variants, targets, FOLDS, **SETTINGS)
    assert list(both) == list(variants)
    for name, variant in variants.items():
        alone, fits = cross_validate(targets=targets, folds=FOLDS, **{**SETTINGS, **variant})
        assert np.array_equal(both[name][0], alone)
        assert [fit.history for fit in both[name][1]] == [fit.history for fit in fits]
    assert not np.array_equal(both["plain"][0], both["faster"][0])


def test_seeds_are_single_fits_from_their_own_seed(toy):
    views, targets = toy
    held_out = views[0, 38:], targets[38:]
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    args = views[:, :38], targets[:38], held_out
    probabilities, fits = fit_seeds(seeded, (1, 7), *args, views[0], **settings)
    assert probabilities.shape == (2, 48, 1) and all(fit.best_weights is None for fit in fits)
    for seed, p, fit in zip((1, 7), probabilities, fits, strict=True):
        head = seeded(seed)
        assert fit_classifier(head, *args, seed=seed, **settings).history == fit.history
        assert np.array_equal(apply(head, views[0]), p)
    assert not np.array_equal(*probabilities)


def every_study(views, targets):
    """Folds, seeds and permutations of the toy problem, as arrays."""
    unseeded = {name: value for name, value in SETTINGS.items() if name != "seed"}
    of_folds, fits = cross_validate(partial(seeded, 1), views, targets, FOLDS, **SETTINGS)
    train = views[:, :38], targets[:38], None
    of_seeds, others = fit_seeds(seeded, (1, 7), *train, views[0, 38:], **unseeded)
    names = np.arange(48).astype(str)
    blank = np.zeros((48, 1, 1, 3), "uint8")
    images = ImageSet(blank, targets[:, 0].astype(int), ("covid", "normal"), names, names)
    _, permuted, _ = permutation_test(LogisticRegression(), views[0], images, 2, seed=0, permutations=4)
    losses = np.array([fit.history["loss"] for fit in (*fits, *others)])
    return {"folds": of_folds, "seeds": of_seeds, "losses": losses, "permutations": permuted}


def test_a_dask_cluster_of_two_gives_the_same(toy, monkeypatch):
    """All studies on two worker processes, by joblib's own switch alone."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / name) for name in (".", "tests")))
    here = every_study(*toy)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        there = every_study(*toy)
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
    assert os.getpid() not in pids
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


# Several devices

PARALLEL = """
import sys
import keras
import numpy as np
from utils import backend, features, models, training
devices = backend.use_data_parallel() if sys.argv[1] == "parallel" else 1
rng = np.random.default_rng(0)
x, y = rng.normal(size=(45, 16)).astype("float32"), np.eye(4, dtype="float32")[rng.integers(4, size=45)]
head = models.build_multiclass_head(16, seed=1)
loss = keras.losses.CategoricalCrossentropy(from_logits=True)
fit = training.fit_classifier(head, x[None], y, (x[:7], y[:7]), loss, 1e-3, 3, 10, 1, progress=False)
frozen = features.frozen_features(head, x, batch_size=6, progress=False)
used = len(head.layers[1].kernel.value.sharding.device_set)
history = {"loss": fit.history["val_loss"], "accuracy": fit.history["val_accuracy"]}
np.savez(sys.argv[2], devices=devices, used=used, frozen=frozen, kernel=head.get_weights()[0], **history)
"""


def test_two_simulated_devices_train_the_same_model(tmp_path):
    """45 images in batches of 10, 7 to validate: neither can be halved, and none is lost or counted twice."""
    pytest.importorskip("jax")
    flags = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    results = {}
    for mode in ("alone", "parallel"):
        command = [sys.executable, "-c", PARALLEL, mode, str(tmp_path / f"{mode}.npz")]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | flags, capture_output=True)
        results[mode] = np.load(tmp_path / f"{mode}.npz")
    assert results["alone"]["devices"] == 1 and results["parallel"]["devices"] == 2
    assert results["parallel"]["used"] == 2
    for name in ("kernel", "loss", "accuracy", "frozen"):
        np.testing.assert_allclose(results["parallel"][name], results["alone"][name], rtol=1e-4, atol=1e-6)
