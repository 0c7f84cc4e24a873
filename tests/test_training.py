"""Batches without loss, fits that repeat bit for bit and say when they diverge, and folds kept apart."""

from collections import Counter
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from toys import SETTINGS
from utils import training
from utils.backend import set_seeds
from utils.chains import split_at
from utils.features import ViewBatches, apply, view_features
from utils.images import read_xrays
from utils.losses import BinaryFocalLoss
from utils.models import build_binary_head, build_vgg16_binary
from utils.studies import cross_validate
from utils.training import Fit, fit_classifier

N, BATCH = 23, 5


def train(toy, factor=1.0, **changes):
    """Fit a new head on 38 of the toy images, validate on 10; the head and its fit."""
    views, targets = toy
    views = views * np.float32(factor)
    head = build_binary_head(32, seed=1)
    held_out = (views[0, 38:], targets[38:])
    return head, fit_classifier(head, views[:, :38], targets[:38], held_out, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def trained(toy):
    return train(toy)


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


# Batches


@pytest.fixture
def batches():
    """23 images of 3 views; a feature tells its view (hundreds) and its image (rest), a target the image."""
    views = 100.0 * np.arange(3)[:, None, None] + np.arange(N)[None, :, None] + np.zeros((3, N, 2))
    return ViewBatches(views, np.arange(N)[:, None], BATCH, seed=1)


def epoch_of(batches):
    """Views and images of one epoch in the order in which they come; the next epoch is then due."""
    pairs = [batches[k] for k in range(len(batches))]
    batches.on_epoch_end()
    features = np.concatenate([x for x, _ in pairs])
    assert np.array_equal(features[:, 0] % 100, np.concatenate([y for _, y in pairs])[:, 0])
    return (features[:, 0] // 100).astype(int), (features[:, 0] % 100).astype(int), [len(y) for _, y in pairs]


def test_each_image_comes_once_an_epoch_and_none_is_dropped(batches):
    for _ in range(4):
        _, images, sizes = epoch_of(batches)
        assert sorted(images) == list(range(N)) and sizes == [5, 5, 5, 5, 3]


def test_full_last_batch_is_not_followed_by_an_empty_one():
    assert [len(ViewBatches(np.zeros((1, n, 2)), np.zeros(n), 5, 0)) for n in (4, 5, 6, 10)] == [1, 1, 2, 2]


def test_every_view_of_every_image_is_used_in_the_long_run(batches):
    seen = Counter()
    for _ in range(60):
        views, images, _ = epoch_of(batches)
        seen.update(zip(views.tolist(), images.tolist(), strict=True))
    assert len(seen) == 3 * N and min(seen.values()) >= 5


def test_views_are_drawn_for_each_image_on_its_own(batches):
    views, _, _ = epoch_of(batches)
    assert len(set(views.tolist())) == 3


def test_every_epoch_has_its_own_order_and_views(batches):
    epochs = [epoch_of(batches) for _ in range(5)]
    assert len({tuple(images) for _, images, _ in epochs}) == 5
    assert len({tuple(views[np.argsort(images)]) for views, images, _ in epochs}) == 5


def test_the_seed_and_the_epoch_decide_the_order(batches):
    def make(seed, epoch=0):
        return ViewBatches(batches.views, batches.targets, BATCH, seed, epoch)

    first, again, other = make(1), make(1), make(2)
    for epoch in range(3):
        late, here = epoch_of(make(1, epoch)), epoch_of(first)
        assert np.array_equal(here[:2], epoch_of(again)[:2]) and np.array_equal(here[:2], late[:2])
        assert not np.array_equal(here[1], epoch_of(other)[1])


def test_images_themselves_and_one_hot_targets_are_cut_alike():
    views = np.zeros((2, N, 4, 4, 3), "uint8") + np.arange(N, dtype="uint8")[None, :, None, None, None]
    x, y = ViewBatches(views, np.eye(N, dtype="float32"), BATCH, seed=0)[4]
    assert x.shape == (3, 4, 4, 3) and np.array_equal(x[:, 0, 0, 0], y.argmax(axis=1))


def test_keras_sees_each_image_once_an_epoch(toy, monkeypatch):
    """Whatever Keras peeks at or fetches beforehand, an epoch is never mixed with the next."""
    epochs = [[]]

    class Recorded(ViewBatches):
        def __getitem__(self, index):
            epochs[-1].append(index)
            return super().__getitem__(index)

        def on_epoch_end(self):
            epochs.append([])
            super().on_epoch_end()

    monkeypatch.setattr(training, "ViewBatches", Recorded)
    train(toy, epochs=3)
    whole = [asked for asked in epochs if len(asked) >= 4]  # without what Keras looked at before it began
    assert [asked[-4:] for asked in whole] == [[0, 1, 2, 3]] * 3
    assert all(len(asked) == 4 for asked in whole[1:]) and epochs[-1] == []


# Fits


def test_separable_classes_are_learned(trained, toy):
    head, fit = trained
    views, targets = toy
    assert fit.history["loss"][-1] < fit.history["loss"][0] / 2
    assert fit.history["val_accuracy"][-1] == 1.0
    assert np.array_equal(apply(head, views[0]) > 0.5, targets == 1)
    assert sorted(fit.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert {len(values) for values in fit.history.values()} == {4}
    assert fit.seconds > 0 and not fit.reused


def test_history_is_of_the_probabilities_and_the_loss_of_the_head_itself(trained, toy):
    """Last validation values, computed anew from the head's probabilities."""
    head, fit = trained
    views, targets = toy
    p = apply(head, views[0, 38:]).astype("float64")
    assert fit.history["val_accuracy"][-1] == pytest.approx(np.mean((p > 0.5) == (targets[38:] == 1)))
    loss = float(BinaryFocalLoss()(targets[38:], p))
    assert fit.history["val_loss"][-1] == pytest.approx(loss, rel=1e-3)


def test_same_seed_gives_the_same_bits_alone_or_as_a_fold(trained, toy):
    views, targets = toy
    head, fit = trained
    folds = [(np.arange(38), np.arange(38, 48))]
    build = partial(build_binary_head, 32, seed=1)
    probabilities, (again,) = cross_validate(build, views, targets, folds, **SETTINGS)
    assert again.history == fit.history
    assert np.isnan(probabilities[:38]).all()
    assert np.array_equal(probabilities[38:], apply(head, views[0, 38:]))


def test_other_seed_gives_another_fit(trained, toy):
    head, fit = train(toy, seed=4)
    assert not same(head, trained[0]) and fit.history["loss"][0] != trained[1].history["loss"][0]


def test_longer_fit_begins_with_the_shorter_one(trained, toy):
    _, fit = train(toy, epochs=8)
    shorter = trained[1].history
    assert {name: values[:4] for name, values in fit.history.items()} == shorter
    assert len(fit.history["loss"]) == 8


def test_loss_that_is_not_finite_names_its_epoch(toy):
    views, targets = toy
    broken = views.copy()
    broken[:, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"epoch 1\b.*0\.001"):
        train((broken, targets))


def test_lack_of_memory_names_the_batch(toy, monkeypatch):
    """Nothing is retried in silence: with smaller batches the fit would be another."""

    class Large(ViewBatches):
        def __getitem__(self, index):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(training, "ViewBatches", Large)
    with pytest.raises(MemoryError, match="Batches of 10 do not fit the device"):
        train(toy)


def test_divergence_in_the_middle_names_its_epoch(toy, monkeypatch):
    """The features turn to infinity after two whole epochs."""

    class Broken(ViewBatches):
        whole = 0

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            broken = self.seed is not None and self.whole == 2  # not the validation batches
            self.whole += index == len(self) - 1
            return (x * np.inf if broken else x), y

    monkeypatch.setattr(training, "ViewBatches", Broken)
    with pytest.raises(FloatingPointError, match=r"epoch 3\b"):
        train(toy)


def test_divergence_in_the_very_last_step_is_noticed(toy):
    """One step an epoch: its loss is finite, the weights that it leaves are not."""
    with pytest.raises(FloatingPointError, match=r"epoch 1\b"):
        train(toy, learning_rate=float("inf"), epochs=1, batch_size=38)


def test_saturated_head_still_learns(toy):
    """At features of a thousand times the scale, a float32 sigmoid is 0 or 1 and has no gradient."""
    views, targets = toy
    swapped = (views, 1 - targets)
    start = build_binary_head(32, seed=1)
    p = apply(start, 1000 * views[0, :38])
    assert np.isin(p, (0, 1)).mean() > 0.9
    _, fit = train(swapped, factor=1000, epochs=6)
    assert fit.history["loss"][-1] < fit.history["loss"][0] / 5
    assert fit.history["accuracy"][-1] > 0.9


def test_softmax_head_learns_from_one_hot_targets(toy):
    views, targets = toy
    keras.utils.set_random_seed(0)
    head = keras.Sequential([keras.Input((32,)), keras.layers.Dense(2, activation="softmax")])
    head = keras.Model(head.inputs[0], head.outputs[0])
    one_hot = np.eye(2, dtype="float32")[targets[:, 0].astype(int)]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    settings = {**SETTINGS, "loss": loss, "learning_rate": 0.01}
    fit = fit_classifier(head, views[:, :38], one_hot[:38], (views[0, 38:], one_hot[38:]), **settings)
    assert fit.history["val_accuracy"][-1] == 1 and fit.history["loss"][-1] < fit.history["loss"][0]
    np.testing.assert_allclose(apply(head, views[0]).sum(axis=1), 1, rtol=1e-5)


def test_best_epoch_counts_from_one():
    assert Fit({"val_loss": [3.0, 1.0, 2.0]}, 0.0).best_epoch == 2
    assert Fit({"val_loss": [1.0, 1.0, 2.0]}, 0.0).best_epoch == 1


def test_best_weights_are_those_of_the_best_epoch(toy):
    """Validation targets are swapped, so that the validation loss is lowest after the first epoch."""
    views, targets = toy
    settings = {**SETTINGS, "epochs": 1}
    held_out = (views[0, 38:], 1 - targets[38:])
    short, long = build_binary_head(32, seed=1), build_binary_head(32, seed=1)
    fit_classifier(short, views[:, :38], targets[:38], held_out, **settings)
    fit = fit_classifier(long, views[:, :38], targets[:38], held_out, **{**settings, "epochs": 3})
    assert fit.best_epoch == 1 and not same(short, long)
    assert all(np.array_equal(a, b) for a, b in zip(fit.best_weights, short.get_weights(), strict=True))


def test_the_best_epoch_is_applied_and_the_last_one_kept(toy):
    """Validation targets are swapped, so that the best epoch is the first."""
    views, targets = toy
    held_out = (views[0, 38:], 1 - targets[38:])
    short, long = build_binary_head(32, seed=1), build_binary_head(32, seed=1)
    fit_classifier(short, views[:, :38], targets[:38], held_out, **{**SETTINGS, "epochs": 1})
    fit = fit_classifier(long, views[:, :38], targets[:38], held_out, **{**SETTINGS, "epochs": 3})
    last = long.get_weights()
    np.testing.assert_array_equal(training.apply_best(long, fit, views[0]), apply(short, views[0]))
    assert all(np.array_equal(a, b) for a, b in zip(last, long.get_weights(), strict=True))


def test_best_weights_are_those_of_a_later_epoch_where_that_is_the_best(toy):
    """With sound validation targets the loss is lowest in the last of a few epochs, not in the first."""
    views, targets = toy
    held_out = (views[0, 38:], targets[38:])
    head = build_binary_head(32, seed=1)
    fit = fit_classifier(head, views[:, :38], targets[:38], held_out, **{**SETTINGS, "epochs": 3})
    assert fit.best_epoch == 3
    assert all(np.array_equal(a, b) for a, b in zip(fit.best_weights, head.get_weights(), strict=True))


def test_a_finished_fit_lets_go_of_its_data(toy, monkeypatch):
    """TensorFlow keeps the generator of a fit; it must not keep the arrays alive with it."""
    made = []

    class Spied(ViewBatches):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(training, "ViewBatches", Spied)
    train(toy, epochs=1)
    assert len(made) == 2 and all(kept.views is None and kept.targets is None for kept in made)


# The whole way, on real images


@pytest.mark.shared
def test_real_pipeline_repeats_bit_for_bit():
    shared = Path(__file__).resolve().parents[2] / "shared"
    folders = [shared / "data" / "two" / "train" / name for name in ("covid", "normal")]
    paths = [path for folder in folders for path in sorted(folder.iterdir())[:2]]
    targets = np.repeat([0.0, 1.0], 2).astype("float32")[:, None]

    def run():
        set_seeds(5)
        images = read_xrays(paths, 224, progress=False)
        model, _ = build_vgg16_binary(weight_folder=shared / "weights", download=False, seed=5)
        base, head = split_at(model, "flatten")
        views = view_features(base, images, 1, seed=5, progress=False)
        settings = {**SETTINGS, "epochs": 2, "batch_size": 2}
        fit = fit_classifier(head, views, targets, (views[0], targets), **settings)
        return views, fit.history, model.predict(images, verbose=0)

    first, second = run(), run()
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]
    assert np.array_equal(first[2], second[2]) and np.ptp(first[2]) > 0
