"""Finding and loading: labels, names and patients in step, splits that part no patient, clear errors."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import data, images, sources
from utils.data import DataError, ImageSet, Source, find_source, grouped_folds, load_images, validation_split
from utils.download import DownloadError
from utils.images import ImageError, git_blob_sha1
from utils.sources import TASK_CLASSES, Known, describe_source, patient_of, read_manifest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real images of ../shared")


def grey_of(task, split, label, number):
    """A grey level that tells class, split and number apart."""
    return 50 * label + 20 * (split == "test") + 5 * number


@pytest.fixture
def root(tmp_path):
    """Both tasks with two images a class and split, whose pixels tell their label and number."""
    folder = tmp_path / "xrays"
    for task, classes in TASK_CLASSES.items():
        for split in ("train", "test"):
            for label, name in enumerate(classes):
                (folder / task / split / name).mkdir(parents=True)
                for number in range(2):
                    image = Image.new("L", (8, 8), grey_of(task, split, label, number))
                    image.save(folder / task / split / name / f"person{number}_x_{label}.png")
    return folder


@pytest.fixture
def source(root):
    return Source(root, "folder")


@pytest.fixture
def phantoms(monkeypatch):
    """Stand-in that records where phantoms are wanted."""
    wanted = []

    def write(folder):
        wanted.append(folder)
        return folder

    monkeypatch.setattr(sources, "write_phantoms", write)
    return wanted


@pytest.fixture
def no_network(monkeypatch):
    def fail(cache_dir, manifest, progress):
        raise DownloadError("- mirror one: HTTP status 404\n- mirror two: no connection\nRemedy: XRAY_DATA")

    monkeypatch.setattr(sources, "fetch_challenge", fail)


@pytest.mark.parametrize("task", TASK_CLASSES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_labels_files_and_patients_are_in_step(task, split, source):
    loaded = load_images(source, task, split, size=4, progress=False)
    assert loaded.images.shape == (2 * len(TASK_CLASSES[task]), 4, 4, 3) and loaded.images.dtype == np.uint8
    assert loaded.labels.dtype == np.int64 and loaded.class_names == TASK_CLASSES[task]
    rows = zip(loaded.images, loaded.labels, loaded.files, loaded.patients, strict=True)
    for position, (image, label, file, patient) in enumerate(rows):
        assert label == position // 2
        assert file == f"{task}/{split}/{TASK_CLASSES[task][label]}/person{position % 2}_x_{label}.png"
        assert (image == grey_of(task, split, label, position % 2)).all()
        assert patient == f"person{position % 2}"


def test_subset_counts_and_one_hot(source):
    loaded = load_images(source, "all", "train", size=4, progress=False)
    part = loaded.subset(np.array([7, 0, 1]))
    assert part.labels.tolist() == [3, 0, 0] and part.files.tolist() == loaded.files[[7, 0, 1]].tolist()
    assert np.array_equal(part.images, loaded.images[[7, 0, 1]])
    assert part.counts() == {"covid": 2, "normal": 0, "pneumonia_bac": 0, "pneumonia_vir": 1}
    assert part.one_hot().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert part.one_hot().dtype == np.float32
    assert len(loaded.subset(loaded.labels == 2)) == 2
    with pytest.raises(ValueError, match="same length"):
        ImageSet(loaded.images, loaded.labels[:3], loaded.class_names, loaded.files, loaded.patients)


def test_what_is_no_image_is_left_out(root, source):
    folder = root / "two" / "train"
    for name in ("desktop.ini", ".DS_Store", "Thumbs.db", "._person0.png"):
        (folder / "covid" / name).write_bytes(b"x")
    (folder / ".ipynb_checkpoints").mkdir()
    assert len(load_images(source, "two", "train", size=4, progress=False)) == 4


def test_upper_case_suffixes_count(root, source):
    folder = root / "two" / "train" / "covid"
    (folder / "person1_x_0.png").rename(folder / "PERSON.PNG")
    assert len(load_images(source, "two", "train", size=4, progress=False)) == 4


def spoil_split(root):
    shutil.rmtree(root / "two" / "train")


def spoil_class(root):
    shutil.rmtree(root / "two" / "train" / "covid")


def spoil_empty(root):
    for file in (root / "two" / "train" / "normal").iterdir():
        file.unlink()
    (root / "two" / "train" / "normal" / "desktop.ini").write_bytes(b"x")


def spoil_unexpected(root):
    (root / "two" / "train" / "pneumonia_bac").mkdir()


def spoil_hash(root):
    shutil.copy(
        root / "two/train/covid/person0_x_0.png", root / "two/train/covid/covid-19-pneumonia-14-PA.png"
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_split, ["train is missing"]),
        (spoil_class, ["covid is missing or holds no image"]),
        (spoil_empty, ["normal is missing or holds no image"]),
        (spoil_unexpected, ["unexpected folder pneumonia_bac", "covid, normal"]),
        (spoil_hash, ["two/train/covid/covid-19-pneumonia-14-PA.png", "download"]),
    ],
)
def test_bad_folder_is_named_with_the_remedy(spoil, words, root, source):
    spoil(root)
    with pytest.raises(DataError) as caught:
        load_images(source, "two", "train", size=4, progress=False)
    assert all(word in str(caught.value) for word in [*words, "Remedy"])


def test_names_of_phantoms_are_not_held_against_the_manifest(root):
    spoil_hash(root)
    assert len(load_images(Source(root, "phantom"), "two", "train", size=4, progress=False)) == 5


def test_unreadable_image_is_named(root, source):
    (root / "two/train/covid/broken.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        load_images(source, "two", "train", progress=False)


def test_unknown_task_is_named(source):
    with pytest.raises(DataError, match=r"'three'.*two, all"):
        load_images(source, "three", "train")


def test_each_file_is_hashed_once_and_a_changed_one_noticed(root, source, tmp_path, monkeypatch):
    hashed = Counter()

    def count(path):
        hashed[path] += 1
        return git_blob_sha1(path)

    monkeypatch.setattr(data, "git_blob_sha1", count)
    monkeypatch.setattr(images, "git_blob_sha1", count)
    first = load_images(source, "two", "train", 4, tmp_path / "cache", progress=False)
    assert set(hashed.values()) == {1} and len(hashed) == 4
    Image.new("L", (8, 8), 33).save(root / first.files[0])
    second = load_images(source, "two", "train", 4, tmp_path / "cache", progress=False)
    assert (second.images[0] == 33).all() and np.array_equal(first.images[1:], second.images[1:])


# Where the images come from


def test_requested_folder_is_taken(root, tmp_path, phantoms):
    found = find_source(f" {root} ", tmp_path)
    assert (found.root, found.kind, found.title, phantoms) == (root, "folder", "", [])
    assert "\n" not in found.banner() and str(tmp_path) not in found.banner() and "xrays" in found.banner()


@pytest.mark.parametrize(
    ("missing", "error"), [(".", FileNotFoundError), ("all", DataError), ("two", DataError)]
)
def test_requested_folder_is_never_replaced_by_another(missing, error, root, tmp_path, phantoms):
    shutil.rmtree(root / missing)
    with pytest.raises(error, match=r"xrays.*Remedy"):
        find_source(str(root), tmp_path, local=root)
    assert phantoms == []


@pytest.mark.parametrize("wish", [None, "", " "])
def test_local_folder_comes_before_download(wish, root, tmp_path, phantoms, no_network):
    assert find_source(wish, tmp_path, local=root).root == root


def test_download_is_used_where_there_is_no_local_folder(root, tmp_path, phantoms, monkeypatch):
    asked = {}

    def fetch(cache_dir, manifest, progress):
        asked.update(cache=cache_dir, manifest=manifest)
        return root

    monkeypatch.setattr(sources, "fetch_challenge", fetch)
    found = find_source(None, tmp_path, local=tmp_path / "none")
    assert (found.root, found.kind, asked["cache"]) == (root, "download", tmp_path)
    assert len(asked["manifest"]) == 454
    assert asked["manifest"]["two/train/covid/covid-19-pneumonia-14-PA.png"].startswith("4f594f4f")


def test_no_source_gives_phantoms_that_say_so(tmp_path, phantoms, no_network):
    found = find_source(None, tmp_path, local=tmp_path / "none")
    assert found.is_phantom and found.title == "phantom data" and phantoms == [tmp_path / "phantoms"]
    banner = found.banner()
    assert len(banner.splitlines()) > 3
    assert all(w in banner for w in ("PHANTOM DATA", "404", "no connection", "Remedy", "XRAY_DATA"))
    assert str(tmp_path) not in banner


def test_an_incomplete_download_is_better_than_phantoms(root, tmp_path, phantoms, no_network):
    shutil.copytree(root, tmp_path / "cache" / "challenge")
    found = find_source(None, tmp_path / "cache", local=tmp_path / "none")
    assert found.kind == "download" and phantoms == [] and "missing" in found.banner()


@pytest.mark.parametrize(("wish", "download"), [("phantom", True), ("PHANTOM", True), (None, False)])
def test_phantoms_on_demand_touch_no_network(wish, download, tmp_path, phantoms, monkeypatch):
    monkeypatch.setattr(sources, "fetch_challenge", None)
    found = find_source(wish, tmp_path, local=tmp_path / "none", download=download)
    assert found.is_phantom and "Remedy" in found.banner()


def test_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XRAY_CACHE", str(tmp_path))
    assert data.default_cache() == tmp_path
    monkeypatch.delenv("XRAY_CACHE")
    assert data.default_cache().name == "covid-xrays"


def test_description_is_compact_and_counts(root, source):
    missing, extra = describe_source(source, ["two"])
    assert missing.startswith("148 of the manifest's 148 files missing: ") and missing.endswith(
        "and 145 more"
    )
    assert "(8)" in extra and "and 5 more" in extra
    assert describe_source(Source(root, "phantom")) == []


# Patients and splits


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person97_virus_180.jpeg", "person97"),
        ("person1940_bacteria_4859.jpeg", "person1940"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-1385-0001.jpeg", "NORMAL2-IM-1385"),
        ("NORMAL2-IM-1294-0001-0002.jpeg", "NORMAL2-IM-1294"),
        ("two/train/covid/phantom_covid_003.png", "phantom_covid_003"),
        ("personal.png", "personal"),
    ],
)
def test_patient_of_a_name(name, patient):
    assert patient_of(name) == patient


def test_manifest_is_whole_and_knows_every_patient():
    manifest = read_manifest()
    counts = Counter("/".join(path.split("/")[:3]) for path in manifest)
    trains = {"covid": 60, "normal": 70, "pneumonia_bac": 70, "pneumonia_vir": 70}
    assert counts == {
        f"{task}/{split}/{name}": trains[name] if split == "train" else 9
        for task, classes in TASK_CLASSES.items()
        for split in ("train", "test")
        for name in classes
    }
    for path, known in manifest.items():
        assert len(known.sha1) == 40
        if path.split("/")[2] == "covid":
            assert known.patient.removeprefix("covid_").isdigit()
        else:
            assert known.patient == patient_of(path)
    assert manifest["all/train/covid/covid-19-pneumonia-14-PA.png"].patient == "covid_23"


def made_set(seed=0):
    """About 130 images of two classes, patients with one to four images each."""
    rng = np.random.default_rng(seed)
    labels, patients = [], []
    for label, people in enumerate((30, 35)):
        for person in range(people):
            count = rng.integers(1, 5)
            labels += [label] * count
            patients += [f"{label}-{person}"] * count
    n = len(labels)
    files = np.array([f"{i}.png" for i in range(n)])
    return ImageSet(np.zeros((n, 1, 1, 3), np.uint8), np.array(labels), ("a", "b"), files, np.array(patients))


@pytest.mark.parametrize("seed", range(5))
def test_folds_part_no_patient_and_keep_the_shares(seed):
    made = made_set(seed)
    folds = grouped_folds(made, 5, seed)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(made)))
    for train, held_out in folds:
        assert sorted([*train, *held_out]) == list(range(len(made)))
        assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()
        assert not set(made.patients[train]) & set(made.patients[held_out])
        assert abs(made.labels[held_out].mean() - made.labels.mean()) < 0.1
        assert abs(len(held_out) / len(made) - 0.2) < 0.06


def test_split_is_the_first_fold_and_follows_the_seed():
    made = made_set()
    train, held_out = validation_split(made, 0.25, seed=3)
    first = grouped_folds(made, 4, seed=3)[0]
    assert np.array_equal(train, first[0]) and np.array_equal(held_out, first[1])
    assert not np.array_equal(held_out, validation_split(made, 0.25, seed=4)[1])


def test_too_few_patients_are_an_error_not_an_empty_part():
    made = made_set()
    lone = ImageSet(made.images, made.labels, ("a", "b"), made.files, made.labels.astype(str))
    with pytest.raises(DataError, match="Class a has 1 patients, too few"):
        grouped_folds(lone, 5, 0)


@pytest.mark.parametrize("fraction", [0, 0.6, 1, -0.2])
def test_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        validation_split(made_set(), fraction)


# The real images


@needs_shared
def test_real_images_load_with_a_note_on_the_missing_one(tmp_path):
    found = find_source(str(SHARED), tmp_path)
    whole = not describe_source(found)
    if not whole:
        (note,) = found.notes
        assert note.startswith(
            "2 of the manifest's 454 files missing: all/train/covid/covid-19-pneumonia-14-PA"
        )
    patients = {}
    for task, train, test in (("two", 129, 18), ("all", 269, 36)):
        for split, n in (("train", train + whole), ("test", test)):
            loaded = load_images(found, task, split, size=32, progress=False)  # checks every hash
            assert len(loaded) == n
            patients[task, split] = set(loaded.patients)
            if split == "train":
                check_real_split(loaded)
        assert patients[task, "train"] & patients[task, "test"] == {"covid_13"}


def check_real_split(loaded):
    train, held_out = validation_split(loaded)
    assert not set(loaded.patients[train]) & set(loaded.patients[held_out])
    for name, count in loaded.subset(held_out).counts().items():
        assert abs(count - 0.2 * loaded.counts()[name]) <= 2


def test_manifest_knows_a_patient_by_content(root, source, monkeypatch):
    sha1 = git_blob_sha1(root / "two/train/normal/person1_x_1.png")
    monkeypatch.setattr(data, "read_manifest", lambda: {"two/test/normal/y.png": Known(sha1, "covid_7")})
    loaded = load_images(source, "two", "train", size=4, progress=False)
    assert loaded.patients.tolist() == ["person0", "person1", "person0", "covid_7"]


@needs_shared
def test_moved_file_keeps_its_patient(root):
    name = "nejmoa2001191_f4.jpeg"
    shutil.copy(SHARED / "two/test/covid" / name, root / "two/train/covid/other-name.jpeg")
    loaded = load_images(Source(root, "folder"), "two", "train", size=4, progress=False)
    assert loaded.patients[loaded.files == "two/train/covid/other-name.jpeg"].tolist() == ["covid_13"]


def test_only_some_classes_are_numbered_from_zero():
    names = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")
    labels = np.array([0, 1, 2, 2, 3])
    files = np.array([f"all/train/{names[k]}/{i}.png" for i, k in enumerate(labels)])
    whole = ImageSet(
        np.arange(5, dtype="uint8")[:, None, None, None], labels, names, files, np.arange(5) // 2
    )
    pair = whole.only(("pneumonia_bac", "pneumonia_vir"))
    assert pair.labels.tolist() == [0, 0, 1]
    assert pair.files.tolist() == files[2:].tolist()
    assert pair.images.ravel().tolist() == [2, 3, 4]
    assert pair.counts() == {"pneumonia_bac": 2, "pneumonia_vir": 1}
    assert pair.patient_counts() == {"pneumonia_bac": 1, "pneumonia_vir": 1}
    with pytest.raises(ValueError, match="no class covid, only pneumonia_bac, pneumonia_vir"):
        pair.only(("covid", "pneumonia_vir"))


def test_two_sets_are_joined_in_order_and_in_step():
    names = ("covid", "normal")
    parts = [
        ImageSet(np.full((2, 1, 1, 3), k, "uint8"), np.array([0, 1]), names, np.array([f"{k}a", f"{k}b"]),
                 np.array([f"p{k}", "same"]))
        for k in (3, 5)
    ]  # fmt: skip
    joined = parts[0].plus(parts[1])
    assert joined.images[:, 0, 0, 0].tolist() == [3, 3, 5, 5] and joined.labels.tolist() == [0, 1, 0, 1]
    assert joined.files.tolist() == ["3a", "3b", "5a", "5b"]
    assert joined.patient_counts() == {"covid": 2, "normal": 1}
    with pytest.raises(ValueError, match="classes differ"):
        parts[0].plus(replace(parts[1], class_names=("normal", "covid")))
