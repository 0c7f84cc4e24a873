"""Phantoms: layout, patients, determinism, signs in numbers, and sets that are whole or absent."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils import phantoms
from utils.phantoms import COUNTS, SIGNS, TASKS, render_phantom, write_phantoms

SMALL, ROWS, RIGHT, LEFT = 64, slice(60, 175), slice(30, 100), slice(156, 226)  # lungs at size 256


def digests(root):
    """SHA-256 of each file under `root`, by its path relative to `root`."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("cache") / "phantoms", size=SMALL)


@pytest.fixture(scope="module")
def added():
    """What each sign adds to the same chest: [seed, row, column] by sign, in shares of white."""
    drawn = np.stack([[render_phantom(s, np.random.default_rng(k)) / 255 for k in range(8)] for s in SIGNS])
    return dict(zip(SIGNS, drawn - drawn[SIGNS.index("normal")], strict=True))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(phantoms, "COUNTS", {split: dict.fromkeys(SIGNS, 2) for split in COUNTS})


def test_layout_counts_and_shared_images_are_the_courses(written):
    found = Counter(name.rsplit("/", 1)[0] for name in digests(written))
    expected = {f"{t}/{split}/{s}": COUNTS[split][s] for t in TASKS for split in COUNTS for s in TASKS[t]}
    assert found == expected and sum(found.values()) == 306 + 148
    assert [*COUNTS["train"].values()] == [60, 70, 70, 70]
    assert [path.name for path in written.parent.iterdir()] == [written.name]  # nothing temporary is left
    two, every = digests(written / "two"), digests(written / "all")
    assert two == {k: v for k, v in every.items() if "pneum" not in k} and len(set(every.values())) == 306


def test_pneumonia_patients_have_several_images_in_one_split_only(written):
    patients = {"train": Counter(), "test": Counter()}
    for path in written.glob("all/*/pneumonia_*/*"):
        patients[path.parts[-3]][re.fullmatch(r"(person\d+)_(?:bacteria|virus)_\d+\.png", path.name)[1]] += 1
    assert not set(patients["train"]) & set(patients["test"])
    assert 1.1 < np.mean(list(patients["train"].values())) < 2


def test_files_depend_on_seed_and_size_alone(few, tmp_path):
    one, again = (write_phantoms(tmp_path / str(n), size=SMALL, n_jobs=n) for n in (1, 2))
    assert again.name == one.name and digests(again) == digests(one)
    other = write_phantoms(tmp_path, seed=543, size=SMALL)
    assert other.name != one.name and not set(digests(other).values()) & set(digests(one).values())


@pytest.mark.parametrize("sign", SIGNS)
def test_drawing_is_deterministic_and_a_patient_gives_the_anatomy(sign):
    def draw(seed, patient=None):
        return render_phantom(sign, np.random.default_rng(seed), SMALL, patient)

    first = draw(3)
    assert first.dtype == np.uint8 and first.shape == (SMALL, SMALL) and first.std() > 25
    assert np.array_equal(first, draw(3)) and not np.array_equal(first, draw(4))
    assert not np.array_equal(draw(3, 7), draw(3, 8))


@pytest.mark.parametrize(("sign", "size", "said"), [("flu", 256, "'flu'.*covid"), ("normal", 63, "63.*64")])
def test_bad_arguments_are_named_and_leave_nothing(sign, size, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        render_phantom(sign, np.random.default_rng(0), size)
    with pytest.raises(ValueError, match="32 pixels"):
        write_phantoms(tmp_path / "phantoms", size=32, n_jobs=1)
    assert not list(tmp_path.iterdir())


def energy(x, rows=ROWS):
    """Mean square in the right and the left lung: [image, side]."""
    return np.stack([np.square(x[:, rows, side]).mean((1, 2)) for side in (RIGHT, LEFT)], 1)


def test_covid_lies_low_in_both_lungs(added):
    low, high = (energy(added["covid"], rows) for rows in (slice(120, 175), slice(55, 90)))
    assert (low > 2 * high).all() and low.min() > 1e-3


def test_bacterial_pneumonia_is_dense_in_one_lung_and_the_others_are_in_both(added):
    sides = np.sort([added["pneumonia_bac"][:, ROWS, side].mean((1, 2)) for side in (RIGHT, LEFT)], axis=0)
    assert (sides[0] < 0).all() and (sides[1] > 0.02).all()
    for sign in ("covid", "pneumonia_vir"):
        assert np.median(energy(added[sign]).max(1) / energy(added[sign]).min(1)) < 2.5


def test_viral_net_is_finer_than_the_bacterial_lobe(added):
    lobe, net = (added[sign] - gaussian_filter(added[sign], (0, 3, 3)) for sign in SIGNS[2:])
    assert energy(net).sum() / energy(added["pneumonia_vir"]).sum() > 0.5
    assert energy(lobe).sum() / energy(added["pneumonia_bac"]).sum() < 0.25


@pytest.mark.parametrize("sign", SIGNS)
def test_nothing_outside_the_lungs_and_no_mean_brightness_tells_the_class(sign, added):
    assert np.abs(added[sign][:, -10:]).max() < 0.02 and np.abs(added[sign][:, :, :3]).max() < 0.02
    assert abs(added[sign].mean()) < 0.01


def test_texture_tells_more_than_the_picture_made_tiny():
    """Logistic regression on the strength of detail in 4 × 4 tiles at three scales, or on 16 × 16 pixels."""
    labels = np.arange(120) % 4
    x = [render_phantom(SIGNS[k], np.random.default_rng(900 + i), 128) for i, k in enumerate(labels)]
    tiny = [Image.fromarray(i).resize((16, 16), Image.Resampling.BOX) for i in x]
    soft = [[gaussian_filter(i.astype(float), s) for s in (0, 1, 2, 4)] for i in x]
    tiles = np.square(np.diff(soft, axis=1)).reshape(120, 3, 4, 32, 4, 32).mean((3, 5))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    texture, whole = (cross_val_score(model, np.reshape(x, (120, -1)), labels).mean() for x in (tiles, tiny))
    assert texture > 0.85 and texture > whole + 0.1


def test_interrupted_write_leaves_nothing_and_a_deleted_file_comes_back(few, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", interrupt)
        write_phantoms(tmp_path, size=SMALL)
    assert not list(tmp_path.iterdir())
    whole = digests(root := write_phantoms(tmp_path, size=SMALL))
    next(root.glob("two/test/covid/*")).unlink()
    assert digests(write_phantoms(tmp_path, size=SMALL)) == whole


def test_whole_set_is_not_drawn_again_but_an_older_drawing_is(written, monkeypatch):
    monkeypatch.setattr(phantoms, "render_phantom", None)
    assert write_phantoms(written.parent, size=SMALL) == written
    monkeypatch.setattr(phantoms, "__file__", Path(__file__))  # any other version of the module
    with pytest.raises(TypeError, match="callable"):
        write_phantoms(written.parent, size=SMALL)
