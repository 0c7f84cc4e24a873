"""Batches without loss, fits that repeat bit for bit, folds kept apart, and finished fits that are reused."""

import contextlib
import gc
import os
import shutil
import time
import weakref
from collections import Counter
from functools import partial
from unittest.mock import Mock

import joblib
import keras
import numpy as np
import pytest

from toys import SETTINGS
from utils import training
from utils.features import ViewBatches, apply
from utils.losses import BinaryFocalLoss
from utils.models import build_binary_head, logits_model
from utils.training import cross_validate, fit_classifier, fit_memory, fit_repeats, head_variants

N, BATCH = 23, 5
FOLDS = [(np.arange(24, 48), np.arange(24)), (np.arange(24), np.arange(24, 48))]
UNSEEDED = {name: value for name, value in SETTINGS.items() if name != "seed"}
plain_head = partial(build_binary_head, 32, seed=1)
seeded = partial(build_binary_head, 32, 0.1, 1.0)  # with dropout
new_head = partial(seeded, 1)


def fit(toy, build=new_head, factor=1.0, **changes):
    """Fit a head on 38 of the toy images, validate on 10 and apply to them."""
    views, targets = np.float32(factor) * toy[0], toy[1]
    held_out = views[0, 38:], targets[38:]
    return fit_classifier(build, views[:, :38], targets[:38], held_out[0], held_out, **(SETTINGS | changes))


def wired(crossed=False, momentum=0.9, factor=1.0):
    """A chain with a nested network, whose layers and weights may be wired in two ways."""
    x, y = keras.Input((32,)), keras.Input((32,))
    dense = keras.layers.Dense
    parts = [dense(4, activation, kernel_initializer="ones")(x) for activation in ("relu", "tanh")]
    nested = keras.Model(x, keras.layers.Concatenate()(parts[::-1] if crossed else parts))
    z = keras.layers.BatchNormalization(momentum=momentum)(nested(y))
    model = keras.Model(y, dense(1, "sigmoid", kernel_initializer="ones")(z))
    model.layers[-1].kernel.assign(factor * np.arange(8.0)[:, None] / 8)
    return model


@pytest.fixture
def batches():
    """23 images of 3 views; a feature tells its view (hundreds) and its image (rest), a target the image."""
    views = 100.0 * np.arange(3)[:, None, None] + np.arange(N)[None, :, None] + np.zeros((3, N, 2))
    return ViewBatches(views, np.arange(N)[:, None], BATCH, seed=1)


def epoch_of(batches):
    """Views and images of one epoch in the order in which they come; the next epoch is then due."""
    pairs = [batches[k] for k in range(len(batches))]
    batches.on_epoch_end()
    features, targets = (np.concatenate(part)[:, 0].astype(int) for part in zip(*pairs, strict=True))
    assert np.array_equal(features % 100, targets)
    assert [len(y) for _, y in pairs] == [5, 5, 5, 5, 3]
    return features // 100, targets


def test_each_image_comes_once_an_epoch_in_every_view_in_the_long_run(batches):
    seen, orders = Counter(), set()
    for _ in range(60):
        views, images = epoch_of(batches)
        assert sorted(images) == list(range(N)) and len(set(views)) == 3
        seen.update(zip(views, images, strict=True))
        orders.add(tuple(images))
    assert len(seen) == 3 * N and min(seen.values()) >= 5 and len(orders) == 60


def test_the_seed_and_the_epoch_decide_the_order_and_without_a_seed_the_first_view_comes_in_order(batches):
    again, other = (ViewBatches(batches.views, batches.targets, BATCH, seed) for seed in (1, 2))
    first = [epoch_of(batches) for _ in range(3)]
    assert np.array_equal(first, [epoch_of(again) for _ in range(3)])
    assert not np.array_equal(first, [epoch_of(other) for _ in range(3)])
    plain = ViewBatches(batches.views, batches.targets, BATCH, None)
    assert [np.array(epoch_of(plain)).tolist() for _ in range(2)] == [[[0] * N, [*range(N)]]] * 2


def test_a_fit_learns_and_its_history_is_that_of_its_probabilities(toy):
    fitted, targets = fit(toy), toy[1][38:]
    assert sorted(fitted.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert {len(values) for values in fitted.history.values()} == {4}
    assert fitted.history["loss"][-1] < fitted.history["loss"][0] / 2
    assert fitted.history["val_accuracy"][-1] == np.mean((fitted.probabilities > 0.5) == (targets == 1)) == 1
    loss = float(BinaryFocalLoss()(targets, fitted.probabilities.astype("float64")))
    assert fitted.history["val_loss"][-1] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("build", [plain_head, new_head])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(build, toy):
    first, again, other = fit(toy, build), fit(toy, build), fit(toy, build, seed=4)
    assert first.history == again.history and np.array_equal(first.probabilities, again.probabilities)
    assert first.history["loss"] != other.history["loss"]


def test_a_saturated_head_still_learns(toy):
    """At features of a thousand times the scale, a float32 sigmoid is 0 or 1 and has no gradient."""
    views, targets = toy
    assert np.isin(apply(new_head(), 1000 * views[0]), (0, 1)).mean() > 0.9
    history = fit((views, 1 - targets), factor=1000, epochs=6).history
    assert history["loss"][-1] < history["loss"][0] / 5 and history["accuracy"][-1] > 0.9


BEYOND = {"learning_rate": float("inf"), "epochs": 1, "batch_size": 38}  # infinite after its only step


@pytest.mark.parametrize("changes", [BEYOND, {"build": partial(wired, factor=np.nan)}])
def test_a_fit_that_cannot_go_on_says_why(changes, toy):
    with pytest.raises(FloatingPointError, match=r"no finite loss in epoch 1\b"):
        fit(toy, **changes)


def test_a_finished_fit_lets_go_of_its_data(toy):
    views = toy[0].copy()
    kept = weakref.ref(views)
    fit_classifier(new_head, views, toy[1], views[0, :2].copy(), None, **SETTINGS)
    del views  # TensorFlow keeps the fit's generator, which must not keep the arrays
    gc.collect()
    assert kept() is None


def test_keras_own_words_as_in_the_notebooks_give_the_same(toy, capsys):
    (views, targets), fitted, head = toy, fit(toy, plain_head), plain_head()
    logits, batches = logits_model(head), ViewBatches(views[:, :38], targets[:38], 10, 3)
    metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)]
    loss, optimizer = BinaryFocalLoss(0.25, 2.0, from_logits=True), training.FusedAdam(1e-3)
    logits.compile(optimizer, loss, metrics=metrics, steps_per_execution=len(batches))
    options = {"epochs": 4, "verbose": 0, "shuffle": False, "callbacks": [training.ProgressBar("head")]}
    held_out = views[0, 38:], targets[38:]
    history, shown = logits.fit(batches, validation_data=held_out, **options).history, capsys.readouterr().out
    assert "head: 100%" in shown and "4/4" in shown and "val_loss=" in shown.rsplit("head:", 1)[1]
    assert sorted(history) == sorted(fitted.history)
    for name, values in fitted.history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)
    np.testing.assert_allclose(head.predict(held_out[0], verbose=0), fitted.probabilities, rtol=1e-4)


def test_fused_adam_is_keras_adam(toy):
    """After many steps, by the weights and by both moments."""
    after = []
    for adam in (keras.optimizers.Adam, training.FusedAdam):
        logits, optimizer = logits_model(wired()), adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3)
        logits.compile(optimizer, SETTINGS["loss"])
        logits.fit(ViewBatches(*toy, 10, 3), epochs=5, verbose=0, shuffle=False)
        after.append([*map(keras.ops.convert_to_numpy, logits.trainable_variables + optimizer.variables)])
    assert len(after[0]) == len(after[1]) > 20
    for ours, theirs in zip(*after, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_folds_are_predicted_by_models_that_did_not_see_them(toy):
    """Labels of one fold are swapped: each is predicted as the other has it. A part in no fold stays NaN."""
    views, targets = toy
    swapped, settings = np.concatenate([targets[:24], 1 - targets[24:]]), SETTINGS | {"epochs": 8}
    plain = {"build": new_head, "views": views}
    out = cross_validate({"plain": plain, "short": plain | {"epochs": 1}}, swapped, FOLDS, **settings)
    p, histories = out["plain"]
    assert p.dtype == np.float32 and ((p > 0.5) != (swapped == 1)).all()
    assert [history["val_accuracy"][-1] for history in histories] == [0, 0]
    assert [len(history["loss"]) for history in out["short"].histories] == [1, 1]
    train, rest = FOLDS[0]
    alone = fit_classifier(new_head, views[:, train], swapped[train], views[0, rest], **settings)
    np.testing.assert_allclose(p[rest], alone.probabilities, rtol=1e-5)
    part = cross_validate({"a": plain}, swapped, FOLDS[:1], **SETTINGS)["a"].probabilities
    assert np.isnan(part[24:]).all() and not np.isnan(part[:24]).any()


def test_held_out_images_are_scored_as_they_are(toy):
    """The second view is blank: who scores on it does not do better than chance."""
    variants = {"a": {"build": new_head, "views": (toy[0] * [[[1]], [[0]]]).astype("float32")}}
    p, histories = cross_validate(variants, toy[1], FOLDS, **SETTINGS)["a"]
    assert min(((p > 0.5) == toy[1]).mean(), *(history["val_accuracy"][-1] for history in histories)) > 0.9


def test_variants_of_a_head_differ_by_what_is_asked_for(toy):
    changes = {"plain": {}, "both": {"dropout": 0.5, "scale": 0.1, "learning_rate": 1e-4}}
    plain, both = head_variants(plain_head, toy[0], changes).values()
    assert plain.keys() == {"build", "views"} and both["learning_rate"] == 1e-4
    names = [{layer.name for layer in variant["build"]().layers} for variant in (plain, both)]
    assert names[1] - names[0] == {"feature_scale", "dropout_flatten", "dropout_feature"}


def test_repeats_are_fits_from_their_own_seed_without_their_fold_here_or_on_a_cluster(toy):
    distributed = pytest.importorskip("distributed")
    args = (seeded, toy[0][0], toy[1], FOLDS, toy[0][0, :5], 7)
    here = fit_repeats(*args, **UNSEEDED)
    train, rest = FOLDS[1]
    parts = toy[0][:1, train], toy[1][train], np.concatenate([toy[0][0, rest], toy[0][0, :5]])
    alone = fit_classifier(partial(seeded, 8), *parts, (toy[0][0, rest], toy[1][rest]), seed=8, **UNSEEDED)
    assert here[1].history == alone.history and np.array_equal(here[1].probabilities, alone.probabilities)
    cluster = distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        there = fit_repeats(*args, **UNSEEDED)
    np.testing.assert_allclose([f.probabilities for f in here], [f.probabilities for f in there], rtol=1e-4)


def test_weights_are_averaged_over_the_last_epochs_and_the_fit_is_as_it_was(toy):
    """Against fits that stop in the third and in the fourth epoch; moving statistics are averaged, too."""
    fits = {epochs: fit(toy, wired, epochs=epochs) for epochs in (3, 4)}
    head, both = wired(), fit(toy, wired, average=2)
    assert both.history == fits[4].history and np.array_equal(both.probabilities, fits[4].probabilities)
    ends = []
    for epochs in (3, 4):
        batches, logits = ViewBatches(toy[0][:, :38], toy[1][:38], 10, 3), logits_model(wired())
        logits.compile(keras.optimizers.Adam(1e-3), SETTINGS["loss"])
        logits.fit(batches, epochs=epochs, verbose=0, shuffle=False)
        ends.append(logits.get_weights())
    logits_model(head).set_weights([(a + b) / 2 for a, b in zip(*ends, strict=True)])
    np.testing.assert_allclose(apply(head, toy[0][0, 38:]), both.averaged, rtol=1e-4)
    assert fits[4].averaged is None and not np.allclose(both.averaged, both.probabilities, rtol=1e-4)


KEPT = SETTINGS | {"loss": keras.losses.BinaryCrossentropy(from_logits=True), "epochs": 2}


@pytest.fixture
def memory(tmp_path):
    return fit_memory(tmp_path)


def reused(call):
    """What a call gives that trains nothing; None if it trains."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(AssertionError):
        patch.setattr(keras.Model, "fit", Mock(side_effect=AssertionError("a fit trains")))
        return call()


def zeros(n):
    return np.zeros(n, "uint8")


CHANGES = {"names that Keras counts up": {}, "rate": {"learning_rate": 2e-3}, "epochs": {"epochs": 3}}
CHANGES |= {"seed": {"seed": 4}, "data": {"factor": 1.001}, "wiring": {"build": partial(wired, True)}}
CHANGES |= {
    "loss": {"loss": keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)},
    "setting without weights": {"build": partial(wired, momentum=0.99)},
    "initial weights": {"build": partial(wired, factor=1.01)},
    "code": (training, "CODE", ["edited"]),
    "machine": (training.session, "describe_machine", lambda: "another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_fit_trains_anew_and_nothing_else(change, toy, memory, monkeypatch):
    options, changes = {"build": wired, "memory": memory} | KEPT, CHANGES[change]
    first = fit(toy, **options)
    if isinstance(changes, tuple):
        monkeypatch.setattr(*changes)
        changes = {}
    again = reused(lambda: fit(toy, **(options | changes)))
    assert (again is not None) == (change == "names that Keras counts up")
    if again:
        assert again.history == first.history and np.array_equal(again.probabilities, first.probabilities)


def test_an_interrupted_study_gives_what_an_uninterrupted_one_gives(toy, memory):
    def study(build, memory=memory):
        return cross_validate({"a": {"build": build, "views": toy[0]}}, toy[1], FOLDS, memory, **KEPT)["a"]

    heads = iter([new_head()])
    with pytest.raises(RuntimeError):
        study(lambda: next(heads))  # in the second of two folds
    whole, again = study(new_head, None), study(new_head)
    assert np.array_equal(whole.probabilities, again.probabilities) and whole.histories == again.histories
    assert reused(lambda: study(new_head)) is not None


def test_a_fit_that_stopped_early_is_not_kept(toy, memory):
    limit = getattr(keras.config, "set_max_epochs", None) or pytest.skip("this Keras knows no such limit")
    try:
        limit(1)  # as under KERAS_MAX_EPOCHS=1
        assert fit(toy, memory=memory, **KEPT).probabilities.shape == (10, 1)
    finally:
        limit(None)
    assert reused(lambda: fit(toy, memory=memory, **KEPT)) is None


def test_a_cache_that_cannot_be_written_costs_a_warning_and_no_fit(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="Fits are not kept: .*Not a directory"):
        nowhere = fit_memory(tmp_path / "file" / "cache")
    memory = fit_memory(tmp_path)
    shutil.rmtree(tmp_path / "fits")
    (tmp_path / "fits").touch()
    with pytest.warns(UserWarning, match="This fit is not kept"):
        first = fit(toy, memory=memory, **KEPT)
    assert first.history == fit(toy, memory=nowhere, **KEPT).history


def test_a_cache_is_bounded_and_forgets_what_nobody_asks_for(tmp_path):
    """After two months, and the longest unread ones of more than 64 MB."""

    def sizes():
        return {path.stat().st_size >> 20: path for path in tmp_path.rglob("output.pkl")}

    for days, size, kept in ((60, 1, []), (10, 40, [40]), (0, 50, [50])):
        fit_memory(tmp_path).cache(zeros)(size * 2**20)
        os.utime(sizes()[size], (time.time() - 86400 * days,) * 2)
        fit_memory(tmp_path)
        assert list(sizes()) == kept


def test_two_processes_may_share_an_empty_cache_and_a_fresh_run_none(toy, tmp_path):
    train, rest = FOLDS[0]
    args, settings = (seeded, toy[0][0], toy[1], [(train, rest)] * 2, toy[0][0, :5]), UNSEEDED | {"epochs": 2}
    fit_repeats(*args, 7, fit_memory(tmp_path, fresh=True), **settings)
    assert list(tmp_path.iterdir()) == []
    with joblib.parallel_config("loky", n_jobs=2):
        calls = [joblib.delayed(fit_repeats)(*args, 7, fit_memory(tmp_path), **settings) for _ in range(2)]
        first, second = ([f.probabilities for f in fits] for fits in joblib.Parallel()(calls))
    assert len(list(tmp_path.rglob("output.pkl"))) == 2
    np.testing.assert_allclose(first, second, rtol=1e-4)
