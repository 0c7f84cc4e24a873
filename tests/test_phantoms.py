"""Phantoms: the course's folders, distinct classes, and sets that are complete."""

import re
from collections import Counter

import numpy as np
import pytest
from joblib import Parallel, delayed
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from utils.phantoms import draw_phantom, write_phantoms

SIGNS = ["covid", "normal", "pneumonia_bac", "pneumonia_vir"]
SIZE = 32


def read_files(root):
    """The content of each file below a folder, by its relative path."""
    contents = {}
    for path in root.rglob("*.png"):
        name = path.relative_to(root).as_posix()
        contents[name] = path.read_bytes()
    return contents


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), size=SIZE)


def test_the_folders_and_counts_are_the_course_s(root):
    counts = Counter(name.rpartition("/")[0] for name in read_files(root))
    for task, signs in {"two": SIGNS[:2], "all": SIGNS}.items():
        n_train = [counts[f"{task}/train/{sign}"] for sign in signs]
        n_test = [counts[f"{task}/test/{sign}"] for sign in signs]
        assert n_train == [60, 70, 70, 70][: len(signs)]
        assert n_test == [9] * len(signs)
    folders = {path.name for path in root.iterdir()}
    assert folders == {"two", "all", "external", "actualmed"}


def test_images_differ_but_both_tasks_share_theirs(root):
    two = read_files(root / "two")
    every = read_files(root / "all")
    assert two.items() <= every.items()
    assert len(set(every.values())) == len(every)
    external = read_files(root / "external")
    assert not set(external.values()) & set(every.values())


def test_patients_with_several_images_are_in_one_split_only(root):
    patients = {"train": Counter(), "test": Counter()}
    for name in read_files(root / "all"):
        match = re.search(r"(\w+)/pneumonia_\w+/(person\d+)_", name)
        if match:
            split, patient = match.groups()
            patients[split][patient] += 1
    assert max(patients["train"].values()) == 2
    assert not set(patients["train"]) & set(patients["test"])


def test_files_depend_on_the_seed_alone(root, tmp_path):
    same = write_phantoms(tmp_path / "same", size=SIZE)
    other = write_phantoms(tmp_path / "other", size=SIZE, seed=1)
    assert read_files(same) == read_files(root)
    assert not set(read_files(other).values()) & set(read_files(root).values())


def test_complete_folders_are_kept_and_missing_ones_drawn_again(tmp_path):
    write_phantoms(tmp_path, size=SIZE)
    before = read_files(tmp_path)
    (tmp_path / "two").rename(tmp_path / "away")
    kept = tmp_path / "all/test/covid/mine.png"
    kept.touch()
    write_phantoms(tmp_path, size=SIZE)
    assert read_files(tmp_path).keys() >= before.keys()
    assert kept.exists()


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, size=SIZE)
    assert not list(tmp_path.iterdir())


def test_the_classes_can_be_learnt_whatever_the_orientation():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    features = []
    for label in labels:
        pixels = draw_phantom(SIGNS[label], rng, size=128) / 255
        turned = np.rot90(pixels, rng.integers(4))
        detail = np.abs(np.diff(turned, axis=0)).mean()
        features.append([turned.mean(), detail])
    model = LogisticRegression(C=1e4, max_iter=1000)
    assert cross_val_score(model, features, labels).mean() > 0.9


def test_two_notebooks_may_draw_at_once(tmp_path):
    jobs = [delayed(write_phantoms)(tmp_path, size=16) for _ in range(2)]
    Parallel(n_jobs=2, prefer="threads")(jobs)
    images = list(tmp_path.glob("two/*/*/*.png"))
    assert len(images) == len(set(images)) == 148
