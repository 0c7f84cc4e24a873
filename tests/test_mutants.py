"""Would the tests notice? Each case plants one error in a copy of `utils`, which the test named must find."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# error: (file in utils/, text that stands there once, text in its place, test that must notice)
MUTANTS = {
    "labels swapped": (
        "data.py",
        "labels += [label] * len(found[name])",
        "labels += [len(classes) - 1 - label] * len(found[name])",
        "test_data.py::test_pixels_labels_files_and_patients_are_in_step[train-two]",
    ),
    "patients in two folds": (
        "data.py",
        "order[patient])",
        "np.arange(len(labels)))",
        "test_data.py::test_folds_part_no_patient_and_keep_the_shares[0]",
    ),
    "challenge's images in the external test": (
        "external.py",
        "if challenge.isdisjoint((sha1, *known)):",
        "if True:",
        "test_external.py::test_what_is_in_the_challenge_is_left_out_and_counted",
    ),
    "labels shuffled by image": (
        "validation.py",
        "rng.permutation(of_unit)[unit]",
        "rng.permutation(image_set.labels)",
        "test_validation.py::test_shuffling_keeps_the_images_of_a_patient_together",
    ),
    "weights of alpha exchanged": (
        "losses.py",
        "y_true * alpha + (1.0 - y_true) * (1.0 - alpha)",
        "y_true * (1.0 - alpha) + (1.0 - y_true) * alpha",
        "test_losses.py::test_alpha_favours_label_zero",
    ),
    "gamma ignored": (
        "losses.py",
        "ops.exp(gamma * log_one_minus_p_t)",
        "ops.exp(log_one_minus_p_t)",
        "test_losses.py::test_hand_computed",
    ),
    "preprocessing forgotten": (
        "models.py",
        "input_tensor=preprocessed",
        "input_tensor=inputs",
        "test_models.py::test_vgg16_has_the_layers_of_the_report",
    ),
    "preprocessing of another network": (
        "models.py",
        '"MobileNet": "tf"',
        '"MobileNet": "caffe"',
        "test_models.py::test_every_backbone_has_its_own_preprocessing",
    ),
    "base not frozen, Task 1": (
        "models.py",
        "base.trainable = False",
        "base.trainable = True",
        "test_models.py::test_only_the_head_of_vgg16_is_trained",
    ),
    "base not frozen, Task 2": (
        "models.py",
        "base.trainable = not is_vgg",
        "base.trainable = True",
        "test_models.py::test_multiclass_vgg16_has_the_parameters_of_the_report",
    ),
    "predictions in another order": (
        "features.py",
        "for part in parts]",
        "for part in parts[::-1]]",
        "test_features.py::test_batches_of_any_size_give_the_same[1]",
    ),
    "targets out of step with images": (
        "features.py",
        "rows]), self.targets[rows]",
        "rows]), self.targets[np.sort(rows)]",
        "test_training.py::test_images_themselves_and_one_hot_targets_are_cut_alike",
    ),
    "trained on what is held out": (
        "studies.py",
        "views[:, train], targets[train]",
        "views, targets",
        "test_studies.py::test_folds_are_predicted_by_models_that_did_not_see_them",
    ),
    "validation on augmented views": (
        "studies.py",
        "held_out = views[0, rest]",
        "held_out = views[-1, rest]",
        "test_held_out.py::test_cross_validation_scores_the_images_and_not_their_augmented_views",
    ),
    "last weights taken for the best": (
        "training.py",
        'if logs.get("val_loss", np.inf) < lowest:',
        "if True:",
        "test_training.py::test_best_weights_are_those_of_the_best_epoch",
    ),
    "dropout while predicting": (
        "features.py",
        "training=False",
        "training=True",
        "test_held_out.py::test_applied_network_neither_drops_units_nor_normalises_by_the_batch",
    ),
}

# Runs tests in a copy of the project, again for every planted error: in one process, because to import Keras
# each time would take longest. What belongs to the project is imported anew.
RUNNER = """
import contextlib, io, json, sys
from pathlib import Path
import keras, pytest

sys.dont_write_bytecode = True  # a file may change twice within a second

class Failures:
    def __init__(self):
        self.messages, self.passed = [], 0

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.messages.append(f"{report.when}: {crash.message if crash else report.longrepr}")

def outcome(tests):
    for name in list(sys.modules):
        if name.split(".")[0] in ("utils", "conftest") or name.startswith("test_"):
            del sys.modules[name]
    seen = Failures()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = pytest.main(["-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)], [seen])
    return {"status": int(status), "printed": printed.getvalue(), **vars(seen)}

mutants = json.load(sys.stdin)
outcomes = {"": outcome(dict.fromkeys(test for *_, test in mutants.values()))}
for error, (name, sound, planted, test) in mutants.items():
    path = Path("utils", name)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(sound, planted), encoding="utf-8")
    outcomes[error] = outcome([test])
    path.write_text(text, encoding="utf-8")
Path("outcomes.json").write_text(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of the tests in a copy: of all without an error (""), and of one with each error."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("utils", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = [sys.executable, "-c", RUNNER]
    done = subprocess.run(command, cwd=folder, input=json.dumps(MUTANTS), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcomes.json").read_text())


def test_copy_without_an_error_passes(outcomes):
    assert outcomes[""]["status"] == 0 and outcomes[""]["passed"] >= len({m[-1] for m in MUTANTS.values()})


@pytest.mark.parametrize("error", MUTANTS)
def test_planted_error_is_noticed(error, outcomes):
    name, sound, _, test = MUTANTS[error]
    assert (ROOT / "utils" / name).read_text(encoding="utf-8").count(sound) == 1, f"{sound!r} in {name}"
    assert outcomes[error]["status"] == 1, f"{test} does not notice it: {outcomes[error]['printed']}"
    # By what the test claims, and not because the planted text is no sound Python.
    claims = ("call: assert ", "call: AssertionError", "call: Failed: DID NOT RAISE")
    assert all(message.startswith(claims) for message in outcomes[error]["messages"])
