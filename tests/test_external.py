"""The external test set: from a folder, from a planted archive, or not at all and why; nothing leaks in."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from utils import download, external
from utils.external import load_external, read_external
from utils.images import git_blob_sha1
from utils.sources import DataError, Known, read_manifest


def png(grey):
    stream = io.BytesIO()
    Image.new("L", (8, 8), grey).save(stream, "PNG")
    return stream.getvalue()


FILES = {
    "covid/case.day0.png": png(10),
    "covid/case.day4.png": png(20),
    "normal/00000007_001.png": png(30),
    "pneumonia/00000008_002.png": png(40),
}
PATIENTS = ("covid_900", "covid_900", "nih_00000007", "nih_00000008")
ORIGINALS = {
    path: Known(git_blob_sha1(content), patient)
    for (path, content), patient in zip(FILES.items(), PATIENTS, strict=True)
}


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """Four originals, and a challenge of two files, in the place of the real lists."""
    challenge = {
        "two/train/covid/seen.png": Known(git_blob_sha1(png(99)), "covid_1"),
        "all/test/pneumonia_bac/person7_bacteria_1.jpeg": Known("0" * 40, "person7"),
    }
    monkeypatch.setattr(external, "read_external", lambda: ORIGINALS)
    monkeypatch.setattr(external, "read_manifest", lambda: challenge)


def write(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def load(root, tmp_path):
    return load_external(str(root), 8, tmp_path / "cache", progress=False)


@pytest.fixture
def archives(monkeypatch):
    """Put archives in the place of the two URLs: `archives(files, files)`; None stands for no connection."""

    def plant(*contents):
        queue = list(contents)

        def fetch(url, file, progress):
            assert url in external.SOURCES
            files = queue.pop(0)
            if files is None:
                raise OSError(101, "Network is unreachable")
            with zipfile.ZipFile(file, "w") as archive:
                for path, content in files.items():
                    archive.writestr(path, content)

        monkeypatch.setattr(download, "_fetch", fetch)
        return queue

    return plant


def moved(files):
    """As in the repository: other folders, other names, and files that nobody asked for."""
    members = {f"COVID-19-abc/X-Ray/{i}.jpg": content for i, content in enumerate(files.values())}
    return members | {
        "COVID-19-abc/": b"",
        "COVID-19-abc/README.md": b"read me",
        "COVID-19-abc/x.png": png(0),
    }


def fetch(tmp_path, **options):
    return load_external(None, 8, tmp_path / "cache", tmp_path / "external", progress=False, **options)


def test_folder_in_step(tmp_path):
    outside = load(write(tmp_path / "mine", FILES), tmp_path)
    images = outside.images
    assert images.class_names == external.CLASSES and images.files.tolist() == list(FILES)
    assert images.images.shape == (4, 8, 8, 3) and images.images.dtype == np.uint8
    assert images.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert images.labels.dtype == np.int64 and images.labels.tolist() == [0, 0, 1, 2]
    assert images.patients.tolist() == list(PATIENTS)
    assert outside.note.startswith(
        "2 covid, 1 normal, 1 pneumonia; folder mine, 4 of 4 verified by hash; 0 more"
    )
    assert str(tmp_path) not in outside.note


def test_reduced_copy_and_moved_original_keep_their_patient(tmp_path):
    copies = {"covid/case.day0.jpg": png(11), "covid/renamed.png": FILES["covid/case.day4.png"]}
    outside = load(write(tmp_path / "mine", copies), tmp_path)
    assert outside.images.patients.tolist() == ["covid_900", "covid_900"]
    assert "1 of 2 verified" in outside.note


def test_unknown_files_are_their_own_patients_or_those_of_their_nih_number(tmp_path):
    names = ("normal/00000123_004.png", "normal/00000123_005.png", "normal/other_004.png")
    root = write(tmp_path / "mine", {name: png(i) for i, name in enumerate(names)})
    (root / "normal" / "desktop.ini").write_text("no image")
    assert load(root, tmp_path).images.patients.tolist() == ["nih_00000123", "nih_00000123", "other_004"]


@pytest.mark.parametrize(
    "planted_file",
    [
        {"covid/renamed.png": png(99)},  # the challenge's file itself
        {"covid/case.day0.jpg": png(99)},  # under the name of an external one
        {"covid/seen.jpg": png(98)},  # encoded anew
        {"pneumonia/person7_bacteria_9.jpeg": png(97)},  # another image of its patient
    ],
)
def test_what_is_in_the_challenge_is_left_out_and_counted(planted_file, tmp_path):
    outside = load(write(tmp_path / "mine", FILES | planted_file), tmp_path)
    assert outside.images.files.tolist() == list(FILES)
    assert "; 1 more left out as images or patients of the challenge" in outside.note


def test_original_that_belongs_to_the_challenge_is_known_by_its_copy(tmp_path, monkeypatch):
    leaks = {
        "covid/case.day0.png": Known(git_blob_sha1(png(99)), "x"),
        "covid/case.day4.png": Known("1" * 40, "covid_1"),
    }
    monkeypatch.setattr(external, "read_external", lambda: ORIGINALS | leaks)
    copies = {path.replace(".png", ".jpg"): content + b" " for path, content in FILES.items()}
    outside = load(write(tmp_path / "mine", copies), tmp_path)
    assert outside.images.class_names == ("normal", "pneumonia") and "; 2 more left out" in outside.note


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES | {"bacterial/a.png": png(1), "lung/a.png": png(1)}, "unexpected folder bacterial, lung"),
        ({"covid/notes.txt": b"", "normal/a.png": png(1)}, "covid holds no image"),
        ({"pneumonia/a.png": png(1)}, "neither covid/ nor normal/"),
        ({"a.png": png(1)}, "neither covid/ nor normal/"),
        ({"covid/renamed.png": png(99)}, "holds only images or patients of the challenge"),
    ],
)
def test_folder_that_is_not_as_it_should_be(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "mine", files), tmp_path)


def test_wish_that_is_no_folder_is_never_replaced(tmp_path, archives):
    queue = archives(moved(FILES))
    write(tmp_path / "external", FILES)
    with pytest.raises(FileNotFoundError, match="XRAY_EXTERNAL=.*absent is no folder. Remedy: set"):
        load_external(str(tmp_path / "absent"), 8, tmp_path, tmp_path / "external")
    assert len(queue) == 1


def test_none_skips_even_what_is_here(tmp_path):
    outside = load_external("None", 8, tmp_path, write(tmp_path / "external", FILES))
    assert outside.images is None and "XRAY_EXTERNAL=none" in outside.note


def test_local_folder_comes_before_the_download(tmp_path, archives):
    queue = archives(moved(FILES))
    write(tmp_path / "external", FILES)
    assert "; folder external, " in fetch(tmp_path).note and len(queue) == 1


def test_without_network_there_is_a_reason(tmp_path):
    outside = fetch(tmp_path, download=False)
    assert outside.images is None and "downloading is switched off" in outside.note
    assert "XRAY_EXTERNAL" in outside.note and str(tmp_path) not in outside.note


def test_download_knows_files_by_their_hashes_alone(tmp_path, archives):
    queue = archives(moved(FILES))
    outside = fetch(tmp_path)
    root = tmp_path / "cache" / "external"
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*")} == FILES
    assert outside.images.files.tolist() == list(FILES) and "; download, 4 of 4 verified" in outside.note
    assert not list((tmp_path / "cache").glob(".incoming-*"))
    assert fetch(tmp_path).note == outside.note and not queue  # there now: not downloaded again


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "Network is unreachable"),
        (
            moved({k: v for k, v in FILES.items() if "normal" not in k}),
            "1 of 4 files are missing, first normal/",
        ),
        (moved(FILES | {"covid/case.day0.png": png(11)}), "1 of 4 files are missing, first covid/case.day0"),
        ({path: png(77) for path in FILES}, "4 of 4 files are missing"),  # right names, other content
        (moved(FILES) | {"../evil.png": b"x"}, "unsafe member '../evil.png'"),
    ],
)
def test_bad_archive_is_refused_and_the_next_one_tried(files, reason, tmp_path, archives):
    archives(files, files)
    outside = fetch(tmp_path)
    assert outside.images is None and outside.note.count(reason) == 2 and "XRAY_EXTERNAL" in outside.note
    assert str(tmp_path) not in outside.note
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    archives(files, moved(FILES))
    assert len(fetch(tmp_path).images) == 4


def test_member_too_large_is_not_read_whole(tmp_path, archives, monkeypatch):
    monkeypatch.setattr(download, "MAX_MEMBER", 200)
    archives(moved(FILES) | {"bomb.png": bytes(10**6)})
    assert len(fetch(tmp_path).images) == 4


def test_downloaded_file_that_was_changed_is_refused(tmp_path, archives):
    archives(moved(FILES))
    fetch(tmp_path)
    (tmp_path / "cache" / "external" / "normal" / "00000007_001.png").write_bytes(png(5))
    with pytest.raises(DataError, match="changed file: normal/00000007_001.png. Remedy: delete it"):
        fetch(tmp_path)


def test_shipped_list():
    originals = read_external()
    assert len(originals) == len({known.sha1 for known in originals.values()}) == 552
    assert len({path.rpartition(".")[0] for path in originals}) == 552  # reduced copies are known by it
    assert originals["normal/00001280_004.png"].patient == "nih_00001280"
    seen = {known.patient for known in read_manifest().values()}
    assert sum(known.patient in seen for known in originals.values()) == 23


@pytest.mark.shared
def test_real_images(tmp_path, pytestconfig, monkeypatch):
    monkeypatch.undo()
    root = pytestconfig.rootpath.parent / "shared" / "external"
    if not root.is_dir():
        pytest.skip("needs ../shared/external")
    outside = load_external(str(root), 32, tmp_path, progress=False)
    # 57 covid less 22 images of the challenge, cropped anew, and one more of its patient 70
    assert outside.images.counts() == {"covid": 34, "normal": 247, "pneumonia": 248}
    assert outside.images.patient_counts() == {"covid": 26, "normal": 186, "pneumonia": 202}
    assert "; folder external, 0 of 529 verified by hash; 23 more left out" in outside.note
