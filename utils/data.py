"""Find and load images, labels and patients in step. Imports session, files and phantoms of ours."""

import os
import re
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

from .files import SUFFIXES, SYSTEM, DownloadError, fetch_files, git_blob_sha1, list_files, read_xrays
from .phantoms import write_phantoms
from .session import user_path

CLASS_TITLES = dict(
    covid="COVID-19", normal="Normal", pneumonia_bac="Bacterial pneumonia", pneumonia_vir="Viral pneumonia"
)
TASK_CLASSES = {"two": ("covid", "normal"), "all": tuple(CLASS_TITLES)}  # alphabetical, as the labels
REMEDY = "Remedy: set XRAY_DATA to a folder with two/ and all/ (train/ and test/ in each), or to phantom."
EXTERNAL_REMEDY = "Remedy: set XRAY_EXTERNAL to a folder with covid/, normal/ (and pneumonia/), or to none."
MAIN = "https://github.com/randreas/Covid-Classification/archive/3bebabca8840c9d4227d75d6cac86ac9d69c06d1.zip"
COPY = "https://github.com/jgj98/Covid-19-Neural-Network/archive/7569ced49911d2deeb97859f127a1763205c6f4d.zip"
OZTURK = "https://github.com/muhammedtalo/COVID-19/archive/11f2ec7edd3a298b4a6081605ec7b458cc770fae.zip"
SETS = {  # variable that names a folder, its word for no images, list of the files, archives, remedy
    "challenge": ("XRAY_DATA", "phantom", "manifest.csv", [MAIN, COPY], REMEDY),
    "external": ("XRAY_EXTERNAL", "none", "external.csv", [OZTURK], EXTERNAL_REMEDY),
}
# Names by which Kermany and NIH tell the patient; bacterial and viral files of one personNN count as one.
NAMES = re.compile(r"person\d+(?=_(bacteria|virus)_\d)|(NORMAL2-)?IM-\d+(?=-\d)|\d{8}(?=_\d{3}\.)")
IN_STEP = ("images", "labels", "files", "patients")  # of an ImageSet


class DataError(ValueError):
    """A data folder that is not as it should be; the message names the file or folder and the remedy."""


class Source(namedtuple("Source", "root kind notes", defaults=[()])):
    """Where the images come from: `kind` is "folder", "download" or "phantom"; notes go into the banner."""

    @property
    def is_phantom(self):
        return self.kind == "phantom"

    @property
    def title(self):
        return "phantom data" if self.is_phantom else ""

    def banner(self):
        """Statement to print: one line for real images, a box for phantoms; never a path of the machine."""
        if not self.is_phantom:
            what = f"folder {self.root.resolve().name}" if self.kind == "folder" else self.kind
            return "; ".join([f"Images: {what}", *self.notes])
        first = "PHANTOM DATA: drawings, not X-rays. No number below says anything about patients."
        lines = "\n".join([first, *self.notes]).splitlines()
        return "\n".join(["#" * 88, *(f"#  {line}" for line in lines), "#" * 88])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (uint8 [n, size, size, 3]) in step with labels (int64 [n], positions in `class_names`), files
    (str [n], such as "two/train/covid/x.png", sorted by class, then name) and patients (str [n])."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    files: np.ndarray
    patients: np.ndarray

    def __len__(self):
        return len(self.labels)

    @property
    def titles(self):
        return [CLASS_TITLES.get(name, name.capitalize()) for name in self.class_names]

    def subset(self, index):
        """The images at `index`: int positions in the wanted order, a bool mask [n], or a slice."""
        return replace(self, **{name: getattr(self, name)[index] for name in IN_STEP})

    def plus(self, other):
        """The images of both, this one's first."""
        assert self.class_names == other.class_names, "the classes differ"
        return replace(self, **{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in IN_STEP})

    def one_hot(self):
        """Labels as float32 [n, k]."""
        return np.eye(len(self.class_names), dtype=np.float32)[self.labels]


def count_table(**sets):
    """Images and patients of each class (rows) in each ImageSet (columns: its keyword, and which of both)."""
    table = {}
    for name, part in sets.items():
        groups = [part.patients[part.labels == label] for label in range(len(part.class_names))]
        table[name, "images"] = pd.Series([len(group) for group in groups], part.titles)
        table[name, "patients"] = pd.Series([len(set(group)) for group in groups], part.titles)
    return pd.DataFrame(table)


def shared_patients(one, other):
    """Sorted patients of both ImageSets; equal files are one patient, whatever their names."""
    return sorted(set(one.patients.tolist()) & set(other.patients.tolist()))


def default_cache():
    """Folder for what is downloaded or kept: $XRAY_CACHE, or the user's cache of the platform."""
    return user_path(os.environ.get("XRAY_CACHE") or platformdirs.user_cache_dir("covid-xrays"))


def read_manifest(name="manifest.csv"):
    """(git blob SHA-1, patient) of the challenge's 454 files, or of the 552 in external.csv, by path."""
    return {p: tuple(rest) for p, *rest in pd.read_csv(Path(__file__).with_name(name), dtype=str).values}


def is_complete(source, files):
    """Whether the files of a task, from both splits, are the challenge's own, with 3 missing at most."""
    task = {path for path in read_manifest() if path[:4] == files[0][:4]}  # two/ or all/
    return not source.is_phantom and len(task.symmetric_difference(files)) <= 3


def _some(text, names):
    more = f" and {len(names) - 3} more" * (len(names) > 3)
    return [f"{text} ({len(names)}): {', '.join(sorted(names)[:3])}{more}"] if names else []


def _notes(root, files, manifest, folders):
    verified = sum(path in manifest and git_blob_sha1(root / path) == manifest[path][0] for path in files)
    over = {path for folder in folders for path in list_files(root, f"{folder}/**/*")}.difference(files)
    return [f"{verified} of {len(files)} verified by hash", *_some("passed over", over)]


def _find(name, requested, cache_dir, local, download, progress):
    """A folder and its kind: what the user names, else `local`, else a download; or None and why not."""
    variable, word, listed, sources, remedy = SETS[name]
    wish, target = (requested or "").strip(), user_path(cache_dir or default_cache()) / name
    root = user_path(wish or local)
    if wish.lower() == word:
        return None, f"{variable}={word} asks for it.\nRemedy: unset {variable} for the real images."
    if os.path.isdir(root) and (wish or not all(map(SYSTEM.search, os.listdir(root)))):
        return root, "folder"
    if wish or (os.path.lexists(root) and not os.path.isdir(root)):  # such as a link that leads nowhere
        raise FileNotFoundError(f"{variable}={wish or root.name} is no folder. {remedy}")
    if not download:
        return None, f"No folder {root.name} is here; downloading is switched off.\n{remedy}"
    try:
        hashes = {path: sha1 for path, (sha1, _) in read_manifest(listed).items()}
        return fetch_files(target, hashes, sources, f"The {name} images", remedy, progress), "download"
    except DownloadError as error:  # an incomplete download is better than none
        return (target, "download") if target.is_dir() else (None, str(error))


def find_source(requested, cache_dir=None, local="data", download=True, progress=True):
    """Find the images: where XRAY_DATA (`requested`) says, else in `local`, else download, else phantoms."""
    root, kind = _find("challenge", requested, cache_dir, local, download, progress)
    if root is None:
        try:
            place = user_path(cache_dir or default_cache()) / "phantoms"
            return Source(write_phantoms(place), "phantom", (kind,))
        except OSError as error:
            why = f"no room for phantoms in {place}: {error.strerror or error}"
            raise DataError(f"{kind}\nThere is {why}. Remedy: set XRAY_CACHE to another folder.") from error
    if lacks := [f"{task}/" for task in TASK_CLASSES if not os.path.isdir(root / task)]:
        inner = [path.parent.relative_to(root) for path in [*root.glob("*/two"), *root.glob("*/*/two")]]
        hint = "".join(f"; its folder {path}/ seems to be meant" for path in inner[:1])
        raise DataError(f"The folder {root} lacks {' and '.join(lacks)}{hint}. {REMEDY}")
    places = [f"{task}/{split}/*/*" for task in TASK_CLASSES for split in ("train", "test")]
    files = {file for place in places for file in list_files(root, place, SUFFIXES)}
    manifest = read_manifest()
    notes = [*_notes(root, files, manifest, TASK_CLASSES), *_some("missing", manifest.keys() - files)]
    return Source(root, kind, [*notes, *_some("not of the challenge", files - manifest.keys())])


def _listed(root, folder, classes, remedy):
    files = {name: list_files(root, f"{folder}{name}/*", SUFFIXES) for name in classes}
    beside = {path.split("/")[-2] for path in list_files(root, f"{folder}*/*")}.difference(classes)
    for wrong in _some("another folder", beside) or _some("no image in", [n for n in files if not files[n]]):
        raise DataError(f"{root / folder} holds {wrong}. {remedy}")
    return [file for name in classes for file in files[name]]


def _load(root, files, hashes, known, size, progress, banned=frozenset()):
    named = {sha1: match[0] for file, sha1 in hashes.items() if (match := NAMES.match(Path(file).name))}
    named = {sha1: f"nih_{name}" if name.isdigit() else name for sha1, name in named.items()} | known
    patients = {file: named.get(sha1, f"sha_{sha1[:12]}") for file, sha1 in hashes.items()}
    files = [f for f in files if banned.isdisjoint((hashes[f], patients[f], Path(f).stem))]
    classes, labels = np.unique([file.split("/")[-2] for file in files], return_inverse=True)
    images = read_xrays([root / file for file in files], size, progress)
    patients = np.array([patients[file] for file in files])
    return ImageSet(images, labels.astype(np.int64), tuple(classes.tolist()), np.array(files), patients)


def load_images(source, task, split, size=224, progress=True):
    """Load one split ("train", "test") of one task ("two", "all"); DataError where it is wrong."""
    root, manifest = source.root, {} if source.is_phantom else read_manifest()
    remedy = f"The classes are {', '.join(TASK_CLASSES[task])}. {REMEDY}"
    files = _listed(root, f"{task}/{split}/", TASK_CLASSES[task], remedy)
    # Of both splits: equal files are one patient, and only one of their names may tell which.
    hashes = {file: git_blob_sha1(root / file) for file in list_files(root, f"{task}/*/*/*", SUFFIXES)}
    wrong = [file for file in files if file in manifest and manifest[file][0] != hashes[file]]
    for text in _some("Not the challenge's files of these names", wrong):
        raise DataError(f"{text}. Remedy: delete them and download again, or rename images of your own.")
    return _load(root, files, hashes, dict(manifest.values()), size, progress)


def load_external(requested, size=224, cache_dir=None, local="external", download=True, progress=True):
    """The external set (or None) without the challenge's images and patients, and a note on it."""
    root, kind = _find("external", requested, cache_dir, local, download, progress)
    if root is None:
        return None, kind
    classes = [name for name in ("covid", "normal", "pneumonia") if os.path.isdir(root / name)]
    hashes = {file: git_blob_sha1(root / file) for file in _listed(root, "", classes, EXTERNAL_REMEDY)}
    originals = read_manifest("external.csv")  # known by hash or, as copies may be reduced, by class and name
    by_name = {path.rpartition(".")[0]: patient for path, (_, patient) in originals.items()}
    known = {sha1: by_name[n] for f, sha1 in hashes.items() if (n := f.rpartition(".")[0]) in by_name}
    # By patient and name as well: 22 of the originals are the challenge's, cropped anew.
    banned = {x for path, known in read_manifest().items() for x in (*known, Path(path).stem)}
    images = _load(root, list(hashes), hashes, known | dict(originals.values()), size, progress, banned)
    if images.class_names[:2] != ("covid", "normal"):
        raise DataError(f"{root}: covid/ or normal/ has none but the challenge's patients. {EXTERNAL_REMEDY}")
    counts = ", ".join(f"{np.sum(images.labels == k)} {name}" for k, name in enumerate(images.class_names))
    left_out = f"{len(hashes) - len(images)} more left out as images or patients of the challenge"
    return images, Source(root, kind, [counts, left_out, *_notes(root, hashes, originals, classes)]).banner()
