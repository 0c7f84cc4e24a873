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
    path = tmp_path_factory.mktemp("outer") / "phantoms"
    write_phantoms(path, size=SIZE)
    return path


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
        split, patient = re.search(r"(\w+)/\w+/(IM-\d+)-\d+", name).groups()
        patients[split][patient] += 1
    assert max(patients["train"].values()) == 2
    assert not set(patients["train"]) & set(patients["test"])


def test_the_folder_is_always_the_same_and_kept(root, tmp_path):
    second = tmp_path / "second"
    write_phantoms(second, size=SIZE)
    assert read_files(second) == read_files(root)
    (second / "two/test/covid/mine.png").touch()
    write_phantoms(second, size=16)
    assert len(read_files(second)) == len(read_files(root)) + 1


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "phantoms", size=SIZE)
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
    root = tmp_path / "phantoms"
    jobs = [delayed(write_phantoms)(root, size=16) for _ in range(2)]
    Parallel(n_jobs=2, prefer="threads")(jobs)
    assert len(read_files(root / "two")) == 148
    assert list(tmp_path.iterdir()) == [root]
