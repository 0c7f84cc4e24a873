"""Which images are found, whose they are, and that everything stays in step."""

import os
import shutil
import socket
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
from PIL import Image

from utils import datasets
from utils.datasets import (
    DataError,
    ImageSet,
    count_table,
    find_challenge,
    find_external,
    load_external,
    load_images,
)
from utils.images import ImageError, git_blob_sha1
from utils.phantoms import write_phantoms

CLASSES = {  # of the labels 0, 1, …: in both tasks, COVID-19 is 0
    "two": ("covid", "normal"),
    "all": ("covid", "normal", "pneumonia_bac", "pneumonia_vir"),
}


def write_image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)


@pytest.fixture
def folder(tmp_path):
    """A challenge folder: five images of each class, a grey level for each class."""
    root = tmp_path / "xrays"
    for task, classes in CLASSES.items():
        for split in ("train", "test"):
            for label, class_name in enumerate(classes):
                for k in range(5):
                    path = root / task / split / class_name / f"{k}.png"
                    write_image(path, 50 * label + k)
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("outer") / "phantoms"
    write_phantoms(root, size=32)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch, phantoms):
    """An empty working directory but for small phantoms."""
    path = tmp_path / "outer" / "here"
    shutil.copytree(phantoms, path / "phantoms")
    monkeypatch.chdir(path)
    return path


def change_collection(monkeypatch, name, **changes):
    collection = replace(datasets.COLLECTIONS[name], **changes)
    monkeypatch.setitem(datasets.COLLECTIONS, name, collection)


@pytest.mark.parametrize("task", CLASSES)
def test_pixels_labels_files_and_patients_are_in_step(task, folder):
    image_set = load_images(find_challenge(str(folder)), task, "train", size=4)
    assert image_set.class_names == CLASSES[task]
    assert image_set.images.shape == (5 * len(CLASSES[task]), 4, 4, 3)
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
    with pytest.raises(ValueError, match="differ"):
        whole.join(make_set([0], ["a"], ("covid", "normal", "pneumonia")))


def test_images_and_patients_are_counted_also_in_an_empty_set():
    train = make_set([0, 0, 1], ["a", "a", "b"])
    empty = train.subset(np.zeros(3, dtype=bool))
    table = count_table(train=train, empty=empty)
    assert table.loc["COVID-19", "train"].tolist() == [2, 1]
    assert table.loc["Normal", "train"].tolist() == [1, 1]
    assert table["empty"].to_numpy().sum() == 0


SAME_PATIENT = [  # two names, the patient in both
    ("person97_virus_180.png", "person97_bacteria_1.png", "person97"),
    ("NORMAL2-IM-1385-0001.png", "NORMAL2-IM-1385-0002.png", "NORMAL2-IM-1385"),
    ("IM-0115-0001.png", "IM-0115-0001-0002.png", "IM-0115"),
    ("00000123_004.png", "00000123_005.png", "00000123"),
]


@pytest.mark.parametrize(("one", "other", "patient"), SAME_PATIENT)
def test_patients_are_recognised(one, other, patient, folder):
    write_image(folder / "two/train/covid" / one, 201)
    write_image(folder / "two/test/normal" / other, 202)
    source = find_challenge(str(folder))
    train = load_images(source, "two", "train", size=4)
    test = load_images(source, "two", "test", size=4)
    assert patient in np.intersect1d(train.patients, test.patients)


def test_equal_files_are_one_patient(folder):
    write_image(folder / "two/train/covid/person7_virus_1.png", 201)
    write_image(folder / "two/test/normal/scan.png", 201)
    test = load_images(find_challenge(str(folder)), "two", "test", size=4)
    assert "person7" in test.patients


def test_other_names_say_nothing_of_the_patient(folder):
    write_image(folder / "two/train/covid/person1_left.png", 201)
    write_image(folder / "two/train/covid/person1_right.png", 202)
    train = load_images(find_challenge(str(folder)), "two", "train", size=4)
    assert len(set(train.patients)) == 12


def test_the_description_says_what_was_found_without_a_path(folder):
    (folder / "two/train/covid/.hidden.png").touch()
    text = find_challenge(str(folder)).describe()
    assert "folder xrays, 0 of 60 verified by hash; 454 missing, first all/" in text
    assert str(folder.parent) not in text


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "two/train/covid/x.dcm").touch()
    source = find_challenge(str(folder))
    with pytest.raises(ImageError, match="two/train/covid/x.dcm .*Remedy: "):
        load_images(source, "two", "train")


def lack_a_task(root):
    shutil.rmtree(root / "all")


def lack_a_class(root):
    shutil.rmtree(root / "two/train/covid")


def add_a_class(root):
    write_image(root / "two/train/viral/x.png", 1)


def alter_an_image(root):
    write_image(root / "two/train/covid/covid-19-pneumonia-14-PA.png", 1)


FAULTS = {
    lack_a_task: "xrays/all has no images",
    lack_a_class: r"two/train/ has images of \['normal'\], not of",
    add_a_class: "two/train/ has images of .*viral.*, not of",
    alter_an_image: "covid-19-pneumonia-14-PA.png: the content differs",
    shutil.rmtree: "xrays/two has no images",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_folder_is_named_with_the_remedy(fault, folder):
    fault(folder)
    with pytest.raises(DataError, match=f"{FAULTS[fault]}.*Remedy: "):
        load_images(find_challenge(str(folder)), "two", "train")


def test_a_local_folder_is_found(folder, here):
    folder.rename(here / "data")
    assert find_challenge().root == (here / "data").resolve()


def test_without_images_there_are_phantoms_that_say_why(here, monkeypatch):
    change_collection(monkeypatch, "challenge", archives=())
    source = find_challenge()
    assert source.is_phantom
    assert "Reason: the download failed. Remedy: " in source.describe()
    assert "PHANTOMS" in source.describe()
    assert str(here) not in source.describe()
    external = find_external("actualmed", source)
    assert external.is_phantom
    assert len(load_external(external, source, size=4)) == 12
    assert not find_external("actualmed", source, "none").is_phantom
    assert len(load_images(source, "all", "train", size=4)) == 270


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(DataError, match="phantoms cannot be written.*Remedy"):
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
            rows.append([f"{class_name}/x{k}.png", sha1, f"P{k}", "AP", np.nan])
    manifest = tmp_path / "list.csv"
    columns = ["path", "sha1", "patient", "view", "age"]
    pd.DataFrame(rows, columns=columns).to_csv(manifest, index=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}/archive.zip"
        change_collection(
            monkeypatch, "actualmed", manifest=str(manifest), archives=(url,)
        )
        yield path
        server.shutdown()


def test_a_download_is_unpacked_by_hash_and_kept(archive, folder, here, caplog):
    pooch.get_logger().addHandler(caplog.handler)
    challenge = find_challenge(str(folder))
    source = find_external("actualmed", challenge)
    assert not caplog.records
    assert "folder actualmed, 4 of 4 verified by hash" in source.describe()
    images = load_external(source, challenge, size=4)
    assert images.images[:, 0, 0, 0].tolist() == [240, 242, 241, 243]
    assert images.patients.tolist() == ["P0", "P2", "P1", "P3"]
    assert set(images.table["view"]) == {"AP"}
    archive.unlink()
    assert len(find_external("actualmed", challenge).table) == 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    zipfile.ZipFile(path, "w").close()


def break_the_proxy(path):
    os.environ["no_proxy"] = ""  # which the fixture resets
    os.environ["http_proxy"] = "http://:80"


FAULTY = {
    cut: "not a zip file",
    empty: "covid/x0.png is missing or altered",
    Path.unlink: "404 Client Error",
    break_the_proxy: "Please check proxy URL",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_bad_download_leaves_nothing(fault, archive, folder, here, monkeypatch):
    monkeypatch.setenv("http_proxy", "")
    fault(archive)
    source = find_external("actualmed", find_challenge(str(folder)))
    assert len(source.table) == 0
    assert FAULTY[fault] in source.describe()
    assert "Remedy: " in source.describe()
    assert [path.name for path in here.iterdir()] == ["phantoms"]


def test_a_silent_server_is_not_waited_for(archive, folder, here, monkeypatch):
    monkeypatch.setattr("pooch.downloaders.DEFAULT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/x.zip"
        change_collection(monkeypatch, "actualmed", archives=(url,))
        source = find_external("actualmed", find_challenge(str(folder)))
    assert "timed out" in source.describe()


def test_copies_are_known_by_hash_and_reduced_copies_by_name(archive, folder, tmp_path):
    write_image(tmp_path / "copies/covid/x0.jpg", 99)
    write_image(tmp_path / "copies/normal/renamed.png", 241)
    challenge = find_challenge(str(folder))
    source = find_external("actualmed", challenge, str(tmp_path / "copies"))
    assert "0 of 2 verified by hash; 3 missing" in source.describe()
    assert source.table["patient"].tolist() == ["P0", "P1"]
    assert source.table["view"][0] == "AP"


def test_the_challenge_s_images_and_patients_are_left_out(archive, folder, tmp_path):
    root = tmp_path / "external"
    write_image(folder / "two/train/normal/person7_virus_1.png", 201)
    write_image(folder / "two/train/normal/scan.png", 202)
    write_image(root / "covid/new.png", 210)
    write_image(root / "covid/person8_virus_1.png", 202)
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
    assert "not available: no X-rays were requested" in source.describe()
    assert images.images.shape == (0, 4, 4, 3)
    assert images.titles == ["COVID-19", "Normal", "Pneumonia"]


@pytest.mark.shared
def test_the_challenge_s_images_are_verified_and_one_patient_is_shared(shared):
    source = find_challenge(str(shared / "data"))
    assert "452 of 452 verified by hash; 2 missing" in source.describe()
    train = load_images(source, "two", "train", size=8)
    test = load_images(source, "two", "test", size=8)
    assert (len(train), len(test)) == (129, 18)
    assert np.intersect1d(train.patients, test.patients).tolist() == ["covid_13"]
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
