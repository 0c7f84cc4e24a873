"""Runs on disk: resumed equals uninterrupted, finished is taken up, changed or broken is trained anew."""

import keras
import numpy as np
import pytest

from utils import runs, training

SETTINGS = {
    "loss": keras.losses.CategoricalCrossentropy(from_logits=True),
    "learning_rate": 1e-2,
    "epochs": 6,
    "batch_size": 10,
    "seed": 5,
    "progress": False,
}


def small_classifier(momentum=0.9):
    """A classifier with all that a resumed run must restore.

    That is weights, moving statistics, Adam's moments and the state of dropout's random numbers.
    """
    inputs = keras.Input((16,))
    x = keras.layers.Dense(8, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1))(inputs)
    x = keras.layers.BatchNormalization(momentum=momentum)(x)
    x = keras.layers.Dropout(0.5, seed=3)(x)
    kernel = keras.initializers.GlorotUniform(seed=2)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax", kernel_initializer=kernel)(x))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 53, 16)).astype("float32")
    return views, np.eye(3, dtype="float32")[rng.integers(3, size=53)]


def fit(classifier, samples, folder=None, **changes):
    views, targets = samples
    settings = {**SETTINGS, **changes}
    return training.fit_classifier(
        classifier, views, targets, (views[0], targets), run_folder=folder, resumable=True, **settings
    )


def same_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(samples, tmp_path, monkeypatch, stop_after):
    whole = small_classifier()
    expected = fit(whole, samples)
    with monkeypatch.context() as patch:
        recorded = training.Recorder.on_epoch_end

        def interrupt(self, epoch, logs=None):
            recorded(self, epoch, logs)
            if epoch + 1 == stop_after:
                raise KeyboardInterrupt

        patch.setattr(training.Recorder, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(small_classifier(), samples, tmp_path)
    resumed = small_classifier()
    result = fit(resumed, samples, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert result.history == expected.history
    assert same_weights(resumed, whole)


def test_a_finished_run_is_taken_up_with_its_history_and_time(samples, tmp_path):
    first, again = small_classifier(), small_classifier()
    trained, taken_up = fit(first, samples, tmp_path), fit(again, samples, tmp_path)
    assert (trained.reused, taken_up.reused) == (False, True)
    assert (taken_up.history, taken_up.seconds) == (trained.history, trained.seconds)
    assert same_weights(first, again)
    for one, other in zip(trained.best_weights, taken_up.best_weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("change", ["rate", "seed", "data", "architecture", "code", "weights"])
def test_a_changed_dependency_trains_anew(samples, tmp_path, monkeypatch, change):
    fit(small_classifier(), samples, tmp_path, epochs=1)
    classifier, settings, (views, targets) = small_classifier(), {"epochs": 1}, samples
    if change == "rate":
        settings["learning_rate"] = 2e-2
    elif change == "seed":
        settings["seed"] = 6
    elif change == "data":
        views = views.copy()
        views[1, 7, 3] += 1e-3
    elif change == "architecture":
        classifier = small_classifier(momentum=0.99)  # no weight tells it apart
    elif change == "code":
        monkeypatch.setattr(runs, "CODE_AS_IMPORTED", ["another loop"])
    else:
        classifier.set_weights([w * 1.01 for w in classifier.get_weights()])
    assert not fit(classifier, (views, targets), tmp_path, **settings).reused


def test_a_broken_file_is_trained_anew(samples, tmp_path):
    fit(small_classifier(), samples, tmp_path, epochs=1)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    assert not fit(small_classifier(), samples, tmp_path, epochs=1).reused
    assert fit(small_classifier(), samples, tmp_path, epochs=1).reused


def test_a_failed_write_leaves_the_last_state(samples, tmp_path, monkeypatch):
    fit(small_classifier(), samples, tmp_path, epochs=1)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        runs.save_run(file, runs.Run())
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_code_that_is_edited_while_it_runs_does_not_rename_the_runs(samples, tmp_path, monkeypatch):
    """The digest is of the code that was imported, which is what runs."""
    fit(small_classifier(), samples, tmp_path, epochs=1)
    monkeypatch.setattr(runs, "_code", lambda: ["edited since"])
    assert fit(small_classifier(), samples, tmp_path, epochs=1).reused
