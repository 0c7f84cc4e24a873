"""Which images are found, whose they are, and that everything stays in step."""

import shutil
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils import datasets
from utils.datasets import (
    TASK_CLASSES,
    DataError,
    ImageSet,
    count_table,
    find_challenge,
    find_external,
    load_external,
    load_images,
    shared_patients,
)
from utils.images import git_blob_sha1
from utils.phantoms import write_phantoms


def write_image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)


@pytest.fixture
def folder(tmp_path):
    """A challenge folder: five images of each class, a grey level for each class."""
    root = tmp_path / "xrays"
    for task, classes in TASK_CLASSES.items():
        for split in ("train", "test"):
            for label, class_name in enumerate(classes):
                for k in range(5):
                    path = root / task / split / class_name / f"{k}.png"
                    write_image(path, 50 * label + k)
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), size=32)


@pytest.fixture
def here(tmp_path, monkeypatch, phantoms):
    """An empty working directory but for small phantoms."""
    path = tmp_path / "outer" / "here"
    shutil.copytree(phantoms, path / "phantoms")
    monkeypatch.chdir(path)
    return path


@pytest.mark.parametrize("task", TASK_CLASSES)
def test_pixels_labels_files_and_patients_are_in_step(task, folder):
    image_set = load_images(find_challenge(str(folder)), task, "train", size=4)
    assert image_set.class_names == TASK_CLASSES[task]
    assert image_set.images.shape == (5 * len(TASK_CLASSES[task]), 4, 4, 3)
    assert image_set.labels.dtype == np.int64
    for k in range(len(image_set)):
        path = folder / image_set.files[k]
        label = image_set.labels[k]
        assert path.parent.name == image_set.class_names[label]
        assert image_set.images[k].max() == 50 * label + int(path.stem)
        assert image_set.patients[k] == f"sha_{git_blob_sha1(path)[:12]}"


def make_set(labels, patients, class_names=("covid", "normal")):
    labels = np.array(labels)
    paths = [f"{k}.png" for k in range(len(labels))]
    names = [class_names[label] for label in labels]
    table = {"path": paths, "patient": patients, "class_name": names}
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(images, labels, class_names, pd.DataFrame(table))


def test_subsets_and_joined_sets_stay_in_step():
    whole = make_set([0, 1, 1], ["a", "b", "c"])
    reordered = whole.subset([2, 0])
    masked = whole.subset(whole.labels == 1)
    joined = reordered.join(masked)
    assert joined.images.ravel().tolist() == [2, 0, 1, 2]
    assert joined.labels.tolist() == [1, 0, 1, 1]
    assert joined.patients.tolist() == ["c", "a", "b", "c"]
    assert joined.files.tolist() == ["2.png", "0.png", "1.png", "2.png"]
    assert joined.one_hot().tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="differ"):
        whole.join(make_set([0], ["a"], ("covid", "normal", "pneumonia")))


def test_images_and_patients_are_counted_also_in_an_empty_set():
    train = make_set([0, 0, 1], ["a", "a", "b"])
    empty = train.subset(np.zeros(3, dtype=bool))
    table = count_table(train=train, empty=empty)
    assert table.loc["COVID-19", "train"].tolist() == [2, 1]
    assert table.loc["Normal", "train"].tolist() == [1, 1]
    assert table["empty"].to_numpy().sum() == 0
    assert shared_patients(train, train) == ["a", "b"]
    assert shared_patients(train, empty) == []


SAME_PATIENT = [  # two names, two grey levels, the patient in both
    ("person97_virus_180.png", "person97_bacteria_1.png", 201, 202, "person97"),
    ("NORMAL2-IM-1385-0001.png", "copy.png", 201, 201, "NORMAL2-IM-1385"),
    ("IM-0115-0001.png", "IM-0115-0001-0002.png", 201, 202, "IM-0115"),
    ("00000123_004.png", "00000123_005.png", 201, 202, "00000123"),
]


@pytest.mark.parametrize(
    ("one", "other", "grey", "other_grey", "patient"), SAME_PATIENT
)
def test_patients_are_recognised(one, other, grey, other_grey, patient, folder):
    write_image(folder / "two/train/covid" / one, grey)
    write_image(folder / "two/test/normal" / other, other_grey)
    source = find_challenge(str(folder))
    train = load_images(source, "two", "train", size=4)
    test = load_images(source, "two", "test", size=4)
    assert patient in shared_patients(train, test)


def test_other_names_say_nothing_of_the_patient(folder):
    write_image(folder / "two/train/covid/person1_left.png", 201)
    write_image(folder / "two/train/covid/person1_right.png", 202)
    train = load_images(find_challenge(str(folder)), "two", "train", size=4)
    assert len(set(train.patients)) == 12


def test_the_description_says_what_was_found_without_a_path(folder):
    (folder / "two/train/covid/x.dcm").touch()
    (folder / "two/train/covid/.hidden.png").touch()
    text = find_challenge(f" {folder} ").describe()
    assert "folder xrays, 0 of 60 verified by hash; 454 missing, first all/" in text
    assert "; 1 passed over, first two/train/covid/x.dcm" in text
    assert str(folder.parent) not in text


def lack_a_task(root):
    shutil.rmtree(root / "all")


def lack_patients(root):
    (root / "two/train/covid/0.png").unlink()


def add_a_class(root):
    write_image(root / "two/train/viral/x.png", 1)


def alter_an_image(root):
    write_image(root / "two/train/covid/covid-19-pneumonia-14-PA.png", 1)


FAULTS = {
    lack_a_task: "no folder all",
    lack_patients: "two/train/covid has 4 patients, and needs 5",
    add_a_class: "unknown classes.*viral",
    alter_an_image: "covid-19-pneumonia-14-PA.png differs",
    shutil.rmtree: "xrays has no folder two",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_folder_is_named_with_the_remedy(fault, folder):
    fault(folder)
    with pytest.raises(DataError, match=f"{FAULTS[fault]}.*Remedy: "):
        load_images(find_challenge(str(folder)), "two", "train")


@pytest.mark.parametrize("local", ["data", "../data"])
def test_a_local_folder_is_found(local, folder, here):
    folder.rename(here / local)
    source = find_challenge(download=False)
    assert source.kind == "folder"
    assert source.root == (here / local).resolve()


def test_without_images_there_are_phantoms_that_say_why(here):
    source = find_challenge(download=False)
    assert source.is_phantom
    assert "downloads are switched off" in source.describe()
    assert "PHANTOMS" in source.describe()
    assert str(here) not in source.describe()
    external = find_external("actualmed", source)
    assert external.is_phantom
    assert len(load_external(external, source, size=4)) == 24
    assert len(load_images(source, "all", "train", size=4)) == 270


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("phantoms").touch()
    with pytest.raises(DataError, match=f"{tmp_path}/phantoms.*Remedy"):
        find_challenge("phantom")


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A zip of four images under other names, and a collection that lists them."""
    path = tmp_path / "archive.zip"
    rows = []
    with zipfile.ZipFile(path, "w") as zipped:
        for k in range(4):
            image = tmp_path / f"{k}.png"
            write_image(image, 240 + k)
            zipped.write(image, f"top/{k}.png")
            class_name = ("covid", "normal")[k % 2]
            sha1 = git_blob_sha1(image)
            rows.append([f"{class_name}/x{k}.png", sha1, f"P{k}", "AP"])
    columns = ["path", "git_blob_sha1", "patient", "view"]
    manifest = tmp_path / "list.csv"
    pd.DataFrame(rows, columns=columns).to_csv(manifest, index=False)
    change_collection(monkeypatch, manifest=str(manifest), archives=(path.as_uri(),))
    return path


def change_collection(monkeypatch, **changes):
    collection = replace(datasets.COLLECTIONS["actualmed"], **changes)
    monkeypatch.setitem(datasets.COLLECTIONS, "actualmed", collection)


def test_a_download_is_unpacked_by_hash_and_kept(archive, folder, here):
    challenge = find_challenge(str(folder))
    source = find_external("actualmed", challenge)
    assert "download actualmed, 4 of 4 verified by hash" in source.describe()
    images = load_external(source, challenge, size=4)
    assert images.images[:, 0, 0, 0].tolist() == [240, 242, 241, 243]
    assert images.patients.tolist() == ["P0", "P2", "P1", "P3"]
    assert set(images.table["view"]) == {"AP"}
    archive.unlink()
    assert find_external("actualmed", challenge).kind == "folder"


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    zipfile.ZipFile(path, "w").close()


BAD_ARCHIVES = {
    cut: "not a zip file",
    empty: "covid/x0.png is missing or altered",
    Path.unlink: "No such file",
}


@pytest.mark.parametrize("fault", BAD_ARCHIVES)
def test_a_bad_download_leaves_nothing(fault, archive, folder, here):
    fault(archive)
    source = find_external("actualmed", find_challenge(str(folder)))
    assert source.kind == "missing"
    assert BAD_ARCHIVES[fault] in source.describe()
    assert "Remedy: " in source.describe()
    assert [path.name for path in here.iterdir()] == ["phantoms"]


def test_a_silent_server_is_not_waited_for(archive, folder, here, monkeypatch):
    monkeypatch.setattr(datasets, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/x.zip"
        change_collection(monkeypatch, archives=(url,))
        source = find_external("actualmed", find_challenge(str(folder)))
    assert "timed out" in source.describe()


def test_reduced_copies_are_known_by_name(archive, folder, tmp_path):
    for class_name, name in (("covid", "x0"), ("normal", "x1")):
        write_image(tmp_path / "copies" / class_name / f"{name}.jpg", 99)
    challenge = find_challenge(str(folder))
    source = find_external("actualmed", challenge, str(tmp_path / "copies"))
    assert "0 of 2 verified by hash; 2 missing" in source.describe()
    assert source.table["view"].tolist() == ["AP", "AP"]


def test_the_challenge_s_images_and_patients_are_left_out(archive, folder, tmp_path):
    root = tmp_path / "external"
    write_image(folder / "two/train/normal/person7_virus_1.png", 201)
    write_image(folder / "two/train/normal/scan.png", 202)
    write_image(root / "covid/new.png", 210)
    write_image(root / "covid/same_content.png", 202)
    write_image(root / "normal/person7_bacteria_9.png", 211)
    write_image(root / "normal/scan.jpg", 212)
    challenge = find_challenge(str(folder))
    source = find_external("actualmed", challenge, str(root))
    images = load_external(source, challenge, size=4)
    assert images.files.tolist() == ["covid/new.png"]


def test_an_external_collection_may_be_declined(folder):
    challenge = find_challenge(str(folder))
    source = find_external("ozturk", challenge, "none")
    images = load_external(source, challenge, size=4)
    assert "not available: not requested" in source.describe()
    assert images.images.shape == (0, 4, 4, 3)
    assert images.titles == ["COVID-19", "Normal", "Pneumonia"]


@pytest.mark.shared
def test_the_challenge_s_images_are_verified_and_one_patient_is_shared(shared):
    source = find_challenge(str(shared / "data"))
    assert "452 of 452 verified by hash; 2 missing" in source.describe()
    n_images = source.table.groupby(["task", "split"]).size()
    assert n_images.to_list() == [36, 269, 18, 129]
    train = load_images(source, "two", "train", size=8)
    test = load_images(source, "two", "test", size=8)
    assert shared_patients(train, test) == ["covid_13"]
    assert np.count_nonzero(test.patients == "covid_13") == 3


@pytest.mark.shared
def test_the_external_collections_lack_the_challenge_s_patients(shared):
    challenge = find_challenge(str(shared / "data"))
    ozturk = find_external("ozturk", challenge, str(shared / "external"))
    folder = str(shared / "external_actualmed")
    actualmed = find_external("actualmed", challenge, folder)
    ozturk = load_external(ozturk, challenge, size=8)
    actualmed = load_external(actualmed, challenge, size=8)
    assert np.bincount(ozturk.labels).tolist() == [34, 247, 248]
    assert np.bincount(actualmed.labels).tolist() == [26, 18]
    frontal = actualmed.table["view"] == "PA"
    assert np.bincount(actualmed.labels[frontal]).tolist() == [5, 14]


@pytest.mark.shared
def test_ages_are_those_of_the_published_table(shared):
    published = pd.read_csv(shared / "data" / "covid_patients.csv")
    ages = published.set_index("filename")["age"]
    table = find_challenge(str(shared / "data")).table
    names = table["path"].str.rpartition("/")[2]
    expected = names.map(ages).astype(float)
    assert np.array_equal(table["age"], expected, equal_nan=True)
