"""Phantoms: layout, determinism, grouping, signs in numbers, and writes that are whole or absent."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from utils import phantoms
from utils.phantoms import COUNTS, SIGNS, TASKS, render_phantom, write_phantoms

SMALL = 64
SEEDS = range(10)
UPPER_LOWER = slice(60, 175)  # rows that hold lung at size 256
RIGHT, LEFT = slice(30, 100), slice(156, 226)  # columns of the two lungs, by the patient's sides


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each file under `root`, by its path relative to `root`."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", size=SMALL, n_jobs=2)


@pytest.fixture(scope="session")
def phantom_digests(phantom_root):
    return digests(phantom_root)


@pytest.fixture(scope="session")
def paired():
    """Images [seed, row, column] by sign; equal seeds share all but the sign."""
    return {s: np.stack([render_phantom(s, np.random.default_rng(k)) for k in SEEDS]) / 255.0 for s in SIGNS}


def test_layout_and_counts(phantom_root, phantom_digests):
    expected = {
        f"{task}/{split}/{sign}": COUNTS[split][sign]
        for task in TASKS
        for split in COUNTS
        for sign in TASKS[task]
    }
    found = [name.rsplit("/", 1)[0] for name in phantom_digests]
    assert {folder: found.count(folder) for folder in set(found)} == expected
    assert len(phantom_digests) == 306 + 148
    assert all(name.endswith(".png") for name in phantom_digests)
    assert [path.name for path in phantom_root.parent.iterdir()] == ["set"]


def test_two_equals_all_for_shared_classes(phantom_digests):
    two = {name.removeprefix("two/"): d for name, d in phantom_digests.items() if name.startswith("two/")}
    every = {name.removeprefix("all/"): d for name, d in phantom_digests.items() if name.startswith("all/")}
    assert two == {name: d for name, d in every.items() if "pneumonia" not in name}
    assert len(set(every.values())) == 306


def test_no_patient_on_both_sides(phantom_digests):
    patients = {"train": [], "test": []}
    for name in phantom_digests:
        _, split, sign, file = name.split("/")
        if person := re.fullmatch(r"(person\d+)_(?:bacteria|virus)_\d+\.png", file):
            patients[split].append(person[1])
        else:
            assert sign in TASKS["two"] and re.fullmatch(rf"phantom_{sign}_\d{{3}}\.png", file)
    assert patients["test"] and not set(patients["train"]) & set(patients["test"])
    assert {patients["train"].count(p) for p in set(patients["train"])} == {1, 2, 3}


def test_files_depend_on_the_seed_alone(phantom_digests, tmp_path, monkeypatch):
    assert digests(write_phantoms(tmp_path / "again", size=SMALL, n_jobs=1)) == phantom_digests
    few = {"train": dict.fromkeys(SIGNS, 2), "test": dict.fromkeys(SIGNS, 1)}
    monkeypatch.setattr(phantoms, "COUNTS", few)
    other = digests(write_phantoms(tmp_path / "other", seed=543, size=SMALL, n_jobs=1))
    assert not set(other.values()) & set(phantom_digests.values())


@pytest.mark.parametrize("sign", SIGNS)
def test_render_is_deterministic(sign):
    first, again, other = (render_phantom(sign, np.random.default_rng(k), SMALL) for k in (3, 3, 4))
    assert first.dtype == np.uint8 and first.shape == (SMALL, SMALL)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.std() > 25


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="'flu'.*covid, normal, pneumonia_bac, pneumonia_vir"):
        render_phantom("flu", np.random.default_rng(0))
    with pytest.raises(ValueError, match="63"):
        render_phantom("normal", np.random.default_rng(0), size=63)
    with pytest.raises(ValueError, match="32"):
        write_phantoms(tmp_path / "set", size=32, n_jobs=1)
    assert not list(tmp_path.iterdir())


def test_covid_is_brighter_in_the_lower_periphery_of_both_lungs(paired):
    added = paired["covid"] - paired["normal"]
    lower, upper = slice(120, 175), slice(50, 80)
    right, left = added[:, lower, 25:75].mean((1, 2)), added[:, lower, 181:231].mean((1, 2))
    assert (right > 0).all() and (left > 0).all()
    peripheral = (right + left).mean() / 2
    assert peripheral > 0.015
    assert peripheral > 2 * added[:, upper, 60:196].mean()


def test_bacterial_sign_is_on_one_side(paired):
    def asymmetry(sign):
        added = paired[sign] - paired["normal"]
        right, left = (added[:, UPPER_LOWER, side].mean((1, 2)) for side in (RIGHT, LEFT))
        return np.abs(right - left) / (right + left)

    assert asymmetry("pneumonia_bac").min() > 0.8
    assert np.median(asymmetry("pneumonia_vir")) < 0.3


def test_viral_sign_is_fine_grained(paired):
    def fine_share(sign):
        added = paired[sign] - paired["normal"]
        detail = added - np.stack([gaussian_filter(image, 2) for image in added])
        energy = [
            [np.square(x[:, UPPER_LOWER, side]).mean() for side in (RIGHT, LEFT)] for x in (detail, added)
        ]
        return np.sum(energy[0]) / np.sum(energy[1]), np.sum(energy[0])

    for other in ("covid", "pneumonia_bac"):
        assert fine_share("pneumonia_vir")[0] > 2 * fine_share(other)[0]
        assert fine_share("pneumonia_vir")[1] > 2 * fine_share(other)[1]


def test_nothing_outside_the_lungs_tells_the_class(paired):
    for sign in SIGNS:
        changed = np.abs(paired[sign] - paired["normal"])
        assert changed[:, -10:].max() <= 2 / 255 and changed[:, :2].max() <= 2 / 255


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, phantom_digests):
    root, render, done = tmp_path / "parent" / "set", phantoms._render, []

    def failing(*args):
        done.append(args)
        if len(done) > 20:
            raise KeyboardInterrupt
        return render(*args)

    monkeypatch.setattr(phantoms, "_render", failing)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(root, size=SMALL, n_jobs=1)
    assert not list(root.parent.iterdir())
    monkeypatch.undo()
    assert digests(write_phantoms(root, size=SMALL, n_jobs=1)) == phantom_digests


def test_whole_set_is_returned_and_foreign_folder_is_kept(tmp_path, monkeypatch, phantom_root):
    def never(*args):
        raise AssertionError("a whole set was rendered again")

    with monkeypatch.context() as patch:
        patch.setattr(phantoms, "_render", never)
        assert write_phantoms(str(phantom_root), size=SMALL, n_jobs=1) == phantom_root
    monkeypatch.setattr(phantoms, "COUNTS", {"train": dict.fromkeys(SIGNS, 1)})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OSError):
        write_phantoms(tmp_path, size=SMALL, n_jobs=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
