"""Finding, fetching and loading: what is read, what is passed over, who is whose, and what is said of it."""

# ruff: noqa: F401, F811 (an imported fixture)
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from test_files import below, server, zipped
from utils import data, files
from utils.data import DataError, ImageSet, Source, find_source, load_external, load_images, shared_patients
from utils.files import DownloadError, ImageError, fetch_files, git_blob_sha1

SHARED = Path(__file__).resolve().parents[2] / "shared"


def picture(grey):
    Image.new("L", (8, 8), grey).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def pictures(text):  # contents by path, from a text such as "a/x.png 10, a/y.png 20"
    return {path: picture(int(grey)) for path, grey in (item.rsplit(" ", 1) for item in text.split(", "))}


def write(root, contents):
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@pytest.fixture
def root(tmp_path):
    folders = [f"{task}/{split}" for task in data.TASK_CLASSES for split in ("train", "test")]
    paths = [f"{f}/{name}/{i}.png" for f in folders for name in data.TASK_CLASSES[f[:3]] for i in "ab"]
    return write(tmp_path / "xrays", {path: picture(8 * k) for k, path in enumerate(paths)})


@pytest.fixture
def offline(monkeypatch):
    for name, (*kept, _, remedy) in data.SETS.items():
        monkeypatch.setitem(data.SETS, name, (*kept, ["http://127.0.0.1:9/x.zip"], remedy))
    monkeypatch.setattr(data, "write_phantoms", lambda place: place.mkdir(parents=True) or place)


def load(root, task="two", split="train", size=4):
    return load_images(Source(root, "folder"), task, split, size, progress=False)


@pytest.mark.parametrize(("task", "split"), [("two", "test"), ("all", "train")])
def test_pixels_labels_files_and_patients_are_in_step(task, split, root):
    loaded, classes = load(root, task, split), data.TASK_CLASSES[task]
    assert loaded.files.tolist() == [f"{task}/{split}/{name}/{i}.png" for name in classes for i in "ab"]
    assert loaded.labels.tolist() == [k for k in range(len(classes)) for _ in "ab"]
    assert (loaded.labels.dtype, loaded.images.dtype, loaded.class_names) == (np.int64, np.uint8, classes)
    for image, file, patient in zip(loaded.images, loaded.files, loaded.patients, strict=True):
        assert (content := (root / file).read_bytes()) == picture(int(image.max())) and image.shape == (
            4,
            4,
            3,
        )
        assert patient == f"sha_{git_blob_sha1(content)[:12]}"


def made(labels, names=("covid", "normal", "pneumonia_bac", "pneumonia")):
    labels, texts = np.array(labels), np.arange(len(labels)).astype(str)
    return ImageSet(labels.astype("uint8")[:, None, None, None], labels, names, texts, texts.copy())


def test_parts_and_sums_of_sets_stay_in_step():
    whole = made([0, 1, 2, 2, 3])
    part = whole.subset(np.array([4, 0]))
    assert part.files.tolist() == ["4", "0"] and part.images.ravel().tolist() == [3, 0]
    assert part.one_hot().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]] and part.one_hot().dtype == np.float32
    assert whole.titles == ["COVID-19", "Normal", "Bacterial pneumonia", "Pneumonia"]
    joined = whole.plus(part)
    assert joined.labels.tolist() == [0, 1, 2, 2, 3, 3, 0] and joined.patients.tolist()[5:] == ["4", "0"]
    with pytest.raises(AssertionError, match="classes differ"):
        whole.plus(made([0], ("covid", "normal")))


def test_counts_are_of_images_and_patients_also_of_nothing():
    some = made([0, 0, 1], ("covid", "normal"))
    some.patients[1] = "0"
    none = some.subset(np.zeros(3, bool))
    table = data.count_table(train=some, unseen=none)
    assert table.loc["COVID-19"].tolist() == [2, 1, 0, 0] and table.loc["Normal"].tolist() == [1, 1, 0, 0]
    assert table.columns.tolist() == [(s, k) for s in ("train", "unseen") for k in ("images", "patients")]
    assert shared_patients(some, none) == [] and shared_patients(some, some) == ["0", "2"]
    assert none.one_hot().shape == (0, 2) and len(none.plus(some)) == 3


WHOSE = [  # what is added to eight patients, how many more there are, and who (by bytes or name) they share
    ("train/covid/001.png 201, train/normal/001.png 202, test/covid/001.png 203", 3, ""),
    ("train/normal/person1_left.png 201, test/covid/person1_right.png 202, test/covid/person1.png 9", 3, ""),
    ("train/covid/a1.png 201, test/covid/b1.jfif 201", 1, "sha_"),
    ("train/normal/person97_virus_180.png 201, test/normal/person97_bacteria_1.png 202", 1, "person97"),
    ("train/normal/NORMAL2-IM-1385-0001.png 201, test/covid/copy.png 201", 1, "NORMAL2-IM-1385"),
    ("train/normal/IM-0115-0001.png 201, test/covid/IM-0115-0001-0002.png 202", 1, "IM-0115"),
    ("train/normal/00000123_004.png 201, test/covid/00000123_005.png 202", 1, "nih_00000123"),
]


@pytest.mark.parametrize(("added", "more", "shared"), WHOSE)
def test_patients_are_told_by_content_or_a_known_scheme(added, more, shared, root):
    write(root / "two", pictures(added))
    sets = [load(root, split=split) for split in ("train", "test")]
    assert len(set(np.concatenate([part.patients for part in sets]))) == 8 + more
    assert [name[: len(shared)] for name in shared_patients(*sets)] == [shared] * bool(shared)


def test_the_manifest_is_whole_and_knows_patients_by_content(root, monkeypatch):
    manifest = data.read_manifest()
    counts = Counter(path.rpartition("/")[0] for path in manifest)
    for task, classes in data.TASK_CLASSES.items():
        assert [counts.pop(f"{task}/test/{name}") for name in classes] == [9] * len(classes)
        assert [counts.pop(f"{task}/train/{name}") for name in classes] == [60, 70, 70, 70][: len(classes)]
    assert not counts and all(len(sha1) == 40 for sha1, _ in manifest.values())
    covid = {patient for path, (_, patient) in manifest.items() if "/covid/" in path}
    assert len(covid) == 47 and all(patient.removeprefix("covid_").isdigit() for patient in covid)
    known = {"two/test/normal/y.png": (git_blob_sha1(root / "two/train/normal/b.png"), "covid_7")}
    monkeypatch.setattr(data, "read_manifest", lambda: known)
    assert load(root).patients[-1] == "covid_7" and "covid_7" not in load(root).patients[:-1]


def test_what_is_passed_over_is_counted_and_named_in_the_banner(root, tmp_path):
    over = "two/train/covid/x.dcm 1, two/train/covid/more/y.png 1, two/val/z.png 1, all/test/r.txt 1"
    system = "two/train/covid/desktop.ini 1, two/Thumbs.db 1, two/train/.b/a.png 1, two/._a.png 1"
    images = "two/train/normal/m.JFIF 250, two/train/normal/n.jpe 251, two/train/normal/o.TIF 252"
    write(root, pictures(f"{over}, {system}, {images}"))
    banner = find_source(str(root), tmp_path).banner()
    assert banner.startswith("Images: folder xrays; 0 of 27 verified by hash; passed over (4): all/test/r.")
    assert " and 1 more; missing (454): " in banner and "; not of the challenge (27): " in banner
    assert "\n" not in banner and str(tmp_path) not in banner
    assert [Path(f).name for f in load(root).files[2:]] == ["a.png", "b.png", "m.JFIF", "n.jpe", "o.TIF"]


BAD = [  # what is removed and added, and what is said
    ("two/train", "two/val/x.png 1", "holds no image in (2): covid, normal"),
    ("two/train/covid", "two/train/covid/desktop.ini 1", "holds no image in (1): covid"),
    ("two/val", "two/train/viral/x.png 1", "another folder (1): viral. The classes are covid, normal."),
    ("two/val", "two/train/covid/covid-19-pneumonia-14-PA.png 1", "Not the challenge's files of these names"),
]


@pytest.mark.parametrize(("removed", "added", "words"), BAD)
def test_a_bad_folder_is_named_with_the_remedy(removed, added, words, root):
    shutil.rmtree(root / removed, ignore_errors=True)
    write(root, pictures(added))
    with pytest.raises(DataError, match=f"{re.escape(words)}.*Remedy: "):
        load(root)


@pytest.mark.parametrize("name", ["Röntgen Thorax.png", "胸部.png", "رئة.png", 'a\'s "c" [1].png', "🫁.png"])
def test_names_beyond_ascii_are_kept_and_bad_files_named(name, root):
    (root / "two/train/covid/a.png").rename(root / "two/train/covid" / name)
    assert f"two/train/covid/{name}" in load(root).files
    (root / "two/train/covid" / name).write_bytes(b"broken")
    with pytest.raises(ImageError, match=re.escape(name)):
        load(root)
    (root / "two/train/normal/link.png").symlink_to("nowhere")
    with pytest.raises(ImageError, match=r"link\.png cannot be read: No such file.*Remedy"):
        load(root)


def test_what_the_user_names_is_taken_also_from_the_home_folder(root, tmp_path, monkeypatch, offline):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for wish, local in ((f" {root} ", "none"), ("~/xrays", "none"), (None, "~/xrays"), (" ", root)):
        found = find_source(wish, "~/cache", local)
        assert (found.root, found.kind, found.title) == (root, "folder", "")
    monkeypatch.setenv("XRAY_CACHE", "~/kept")
    assert data.default_cache() == tmp_path / "kept"
    assert find_source("Phantom").root == tmp_path / "kept/phantoms"
    assert "folder train; 2 covid," in load_external("~/xrays/two/train", 4, progress=False)[1]
    monkeypatch.delenv("XRAY_CACHE")
    assert data.default_cache().name == "covid-xrays"


def nest(root, folder):
    root.rename(root.with_name("away"))
    shutil.move(root.with_name("away"), write(root, {f"{folder}/x": b""}) / folder / "inner")


NOT_SO = [
    (lambda root: shutil.rmtree(root / "all"), "lacks all/. "),
    (lambda root: nest(root, ""), "lacks two/ and all/; its folder inner/ seems to be meant"),
    (lambda root: nest(root, "a"), "its folder a/inner/ seems to be meant"),
    (lambda root: shutil.rmtree(root) or root.write_bytes(b"x"), "is no folder"),
    (lambda root: shutil.rmtree(root) or root.symlink_to("nowhere"), "is no folder"),
]


@pytest.mark.parametrize(("fault", "words"), NOT_SO)
def test_a_folder_that_is_not_as_it_should_be_is_never_replaced(fault, words, root, tmp_path, offline):
    fault(root)
    for wish, local in ((str(root), tmp_path / "none"), (None, root)):
        with pytest.raises((DataError, FileNotFoundError), match=f"{re.escape(words)}.*Remedy: "):
            find_source(wish, tmp_path / "cache", local)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("wish", ["none/here", "~no-such-user/xrays", "x" * 5000, "a\0b", "a/\N{LUNGS}"])
@pytest.mark.parametrize("find", [find_source, load_external])
def test_a_wish_that_is_no_folder_is_named(wish, find, tmp_path, offline):
    with pytest.raises(FileNotFoundError, match="XRAY_(DATA|EXTERNAL)=.*is no folder.*Remedy"):
        find(wish, cache_dir=tmp_path)


def test_without_images_there_are_phantoms_that_say_why(root, tmp_path, offline, monkeypatch):
    write(tmp_path, {"data/.DS_Store": b"", "file": b""})  # as good as empty
    for wish, download, words in (
        (None, True, "not be downloaded:\n#    - http://127.0.0.1:9/x.zip: ConnectionError\n#  Remedy:"),
        (None, False, "No folder data is here; downloading is switched off.\n#  Remedy:"),
        ("PHANTOM", True, "XRAY_DATA=phantom asks for it.\n#  Remedy:"),
    ):
        found = find_source(wish, tmp_path / words[:5], tmp_path / "data", download)
        assert (found.is_phantom, found.title) == (True, "phantom data") and "PHANTOM DATA" in found.banner()
        assert words in found.banner() and str(tmp_path) not in found.banner()
    write(root, pictures("two/train/covid/covid-19-pneumonia-14-PA.png 1"))
    assert len(load_images(Source(root, "phantom"), "two", "train", 4, progress=False)) == 5
    shutil.copytree(root, tmp_path / "cache/challenge")
    found = find_source(None, tmp_path / "cache", tmp_path / "data")
    assert found.kind == "download" and "missing (453)" in found.banner()
    monkeypatch.setattr(data, "write_phantoms", lambda place: place.mkdir())
    with pytest.raises(DataError, match=r"asks for it(.|\n)*phantoms: Not a directory. Remedy: .*XRAY_CACHE"):
        find_source("phantom", tmp_path / "file")


FILES = {"two/train/a.png": b"first file", "two/test/b.jpg": b"second file", "all/train/a.png": b"first file"}
MANIFEST = {path: git_blob_sha1(content) for path, content in FILES.items()}
GOOD = zipped({"top\\x.png": b"first file", "top/y": b"second file", "top/z": b"", "../evil.png": b"evil"})


def fetch(server, cache, *names, progress=False):
    urls = [f"http{'s' * (name == 'TLS')}://{server.address}/{name}" for name in names]
    return fetch_files(cache / "challenge", MANIFEST, urls, "It", "Remedy: wait.", progress)


def test_an_archive_gives_the_manifest_s_files_wherever_they_lie(server, tmp_path, capsys):
    server.pages["/good"] = [GOOD[k : k + 20] for k in range(0, len(GOOD), 20)]
    root = fetch(server, tmp_path / "one/two", "good")
    assert below(tmp_path) == {f"one/two/challenge/{path}": content for path, content in FILES.items()}
    assert capsys.readouterr() == ("", "")
    fetch(server, tmp_path / "b", "good", progress=True)
    assert capsys.readouterr().out
    (root / "two/train/a.png").unlink()
    own = {"two/test/b.jpg": b"own", "two/mine.png": b"own"}
    fetch(server, write(root, own).parent, "good")
    server.pages.clear()
    assert below(fetch(server, root.parent, "good")) == FILES | own


FAULTS = {  # what a source sends, and what is said of it
    "absent": (None, "404"),
    "half": ([GOOD[:-40]], "not a zip file"),
    "cut": ([GOOD], "ChunkedEncodingError"),
    "empty": ([zipped({})], "3 of 3 files missing or changed, first all/train/a.png"),
    "changed": ([zipped(FILES | {"two/test/b.jpg": b"x"})], "1 of 3 files missing or changed, first two/"),
    "broken": ([GOOD.replace(b"top\\x.pngK", b"top\\x.png\xff")], ""),
    "encrypted": ([GOOD.replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1")], "encrypted"),
    "bomb": ([zipped(FILES | {"two/test/b.jpg": bytes(10**6)})], "1 of 3 files missing"),
    "stalls": ([GOOD[:50], None], "ConnectionError"),
    "silent": ([None], "ReadTimeout"),
    "TLS": ([GOOD], "TLS error (certificate"),
    "endless": ([bytes(2**16)] * 99, "sends more than 1048576 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_source_is_told_and_leaves_nothing_and_the_next_is_tried(fault, server, tmp_path, monkeypatch):
    for name, value in {"TIMEOUT": (1, 0.3), "MAX_MEMBER": 1000, "MAX_ARCHIVE": 2**20}.items():
        monkeypatch.setattr(files, name, value)
    body, reason = FAULTS[fault]
    server.pages.update({"/good": [GOOD]} | ({} if body is None else {f"/{fault}": body}))
    with pytest.raises(DownloadError) as caught:
        fetch(server, tmp_path, fault)
    text = str(caught.value)
    assert text.startswith("It could not be downloaded:\n  - http") and reason in text
    assert text.endswith("\nRemedy: check the connection and run again, or wait.")
    assert str(tmp_path) not in text and "0x" not in text and list(tmp_path.iterdir()) == []
    assert below(fetch(server, tmp_path, fault, "good")) == FILES


OUTSIDE = pictures("covid/a.day0.png 10, covid/a.day4.png 20, normal/000_1.png 30, pneumonia/000_2.png 40")
PATIENTS = ["covid_900", "covid_900", "nih_00000007", "nih_00000008"]


@pytest.fixture
def planted(monkeypatch, server):
    hashes = [git_blob_sha1(content) for content in OUTSIDE.values()]
    originals = dict(zip(OUTSIDE, zip(hashes, PATIENTS, strict=True), strict=True))
    seen = {"two/x/seen.png": (git_blob_sha1(picture(99)), "covid_1"), "all/x/z.png": ("0" * 40, "person7")}
    lists = {"manifest.csv": seen, "external.csv": originals}
    monkeypatch.setattr(data, "read_manifest", lambda name="manifest.csv": lists[name])
    *kept, _, remedy = data.SETS["external"]
    monkeypatch.setitem(data.SETS, "external", (*kept, [f"http://{server.address}/x.zip"], remedy))
    server.pages["/x.zip"] = [zipped({f"X-Ray/{k}.jpg": c for k, c in enumerate(OUTSIDE.values())})]
    return originals


def outside(tmp_path, contents=None, wish=None, download=True):
    wish = str(write(tmp_path / "mine", contents)) if contents else wish
    return load_external(wish, 8, tmp_path / "cache", tmp_path / "external", download, progress=False)


def test_the_external_set_in_step_from_a_folder_or_a_download(tmp_path, planted, server):
    for contents, kind in ((OUTSIDE, "folder mine"), (None, "download"), (None, "download")):
        images, note = outside(tmp_path, contents)
        assert images.class_names == ("covid", "normal", "pneumonia")
        assert images.files.tolist() == list(OUTSIDE) and images.images[:, 0, 0, 0].tolist()[::3] == [10, 40]
        assert images.patients.tolist() == PATIENTS and images.labels.tolist() == [0, 0, 1, 2]
        counts = "2 covid, 1 normal, 1 pneumonia; 0 more left out as images or patients of the challenge"
        assert note == f"Images: {kind}; {counts}; 4 of 4 verified by hash"
        if kind == "download":
            server.pages.clear()
    write(tmp_path, pictures("external/covid/own.png 50, external/normal/own.png 51"))
    assert "folder external; 1 covid, 1 normal; 0 more" in outside(tmp_path)[1]  # before the download


KEPT = [  # what the folder holds besides an image of each, the patients that stay, what is said
    ("covid/a.day0.jpg 11, covid/y.png 20", ["covid_900"] * 2, "0 more left out"),
    ("normal/00000123_004.png 1, normal/00000123_005.png 2", ["nih_00000123"] * 2, "0 more left out"),
    ("covid/x.png 2, covid/y.jpe 2", [f"sha_{git_blob_sha1(picture(2))[:12]}"] * 2, "0 more left out"),
    ("normal/a.dcm 1, normal/b/c.png 2", [], "; passed over (2): normal/a.dcm, normal/b/c.png"),
    ("covid/renamed.png 99, covid/a.day0.jpg 99", [], "2 more left out"),
    ("covid/seen.jpg 98, pneumonia/person7_bacteria_9.jpeg 97", [], "2 more left out"),
    ("covid/a.dcm 1, covid/desktop.ini 3, normal/x.png 1", None, "holds no image in (1): covid"),
    ("covid/renamed.png 99, pneumonia/a.png 1", None, "covid/ or normal/ has none"),
    ("normal/a.png 1", None, "covid/ or normal/ has none but the challenge's"),
    ("a.png 1", None, "covid/ or normal/ has none"),
    ("bacterial/a.png 1, normal/a.png 1", None, "another folder (1): bacterial"),
]


@pytest.mark.parametrize(("added", "patients", "words"), KEPT)
def test_who_belongs_to_the_external_set(added, patients, words, tmp_path, planted):
    if patients is None:
        with pytest.raises(DataError, match=f"{re.escape(words)}.*Remedy: set XRAY_EXTERNAL"):
            outside(tmp_path, pictures(added))
        return
    images, note = outside(tmp_path, pictures(f"normal/zz.png 200, covid/zz.png 201, {added}"))
    others = ~np.char.endswith(images.files, "/zz.png")
    assert images.patients[others].tolist() == patients and words in note


def test_an_original_of_a_patient_of_the_challenge_is_left_out_by_its_copy(tmp_path, planted):
    planted["covid/a.day4.png"] = ("1" * 40, "covid_1")
    images, note = outside(tmp_path, {path.replace(".png", ".jpg"): c + b" " for path, c in OUTSIDE.items()})
    assert images.patients.tolist() == [PATIENTS[0], *PATIENTS[2:]] and "; 1 more left out" in note


def test_no_external_set_has_a_reason(tmp_path, planted, server):
    server.pages["/x.zip"] = [zipped({path: picture(77) for path in OUTSIDE})]
    for wish, download, words in (("None", True, "=none asks"), (None, False, "off"), (None, True, "4 of 4")):
        images, note = outside(tmp_path, None, wish, download)
        assert images is None and words in note and "Remedy: " in note and str(tmp_path) not in note
    assert below(tmp_path) == {}


@pytest.mark.shared
def test_the_real_images_are_verified_and_one_patient_is_shared(tmp_path):
    found = find_source(str(SHARED / "data"), tmp_path)
    whole = "missing" not in found.banner()
    assert ("454 of 454 verified" if whole else "452 of 452 verified by hash; missing (2)") in found.banner()
    sets = [load(found.root, "all", split, size=8) for split in ("train", "test")]
    assert ([*map(len, sets)], shared_patients(*sets)) == ([269 + whole, 36], ["covid_13"])
    everything = sets[0].plus(sets[1]).files
    assert data.is_complete(found, everything) and not data.is_complete(found, everything[4:])
    assert not data.is_complete(Source(found.root, "phantom"), everything)


@pytest.mark.shared
def test_the_real_external_set_lacks_the_challenge(tmp_path):
    originals, challenge = (dict(data.read_manifest(f"{n}.csv").values()) for n in ("external", "manifest"))
    assert len(originals) == 552 and not set(originals) & set(challenge)  # but 22 are cropped anew
    assert sum(patient in challenge.values() for patient in originals.values()) == 23
    images, note = load_external(str(SHARED / "external"), 8, tmp_path, progress=False)
    counts = data.count_table(outside=images)["outside"]
    assert counts["images"].tolist() == [34, 247, 248] and counts["patients"].tolist() == [26, 186, 202]
    assert "; 23 more left out as images or patients of the challenge; 0 of 552 verified by hash" in note
