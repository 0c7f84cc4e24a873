"""Find and load the external test set: images of other patients, and mostly of other hospitals."""

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import ImageSet
from .download import DownloadError, by_content, fetch_files
from .images import git_blob_sha1, read_xrays
from .sources import DataError, Known, default_cache, images_in, name_some, patient_of, read_manifest

CLASSES = ("covid", "normal", "pneumonia")
# Ozturk et al. (2020). The second is not pinned and need not be: files are known by their hashes alone.
SOURCES = tuple(
    f"https://github.com/muhammedtalo/COVID-19/archive/{state}.zip"
    for state in ("11f2ec7edd3a298b4a6081605ec7b458cc770fae", "refs/heads/master")
)
REMEDY = "set XRAY_EXTERNAL to a folder that holds covid/ or normal/, or XRAY_EXTERNAL=none to do without."


@dataclass(frozen=True, eq=False)
class External:
    """The external test set and a note on where it is from, or None and a note on why it is not here."""

    images: ImageSet | None
    note: str


def read_external() -> dict[str, Known]:
    """Hash and patient of the 552 original files, by path such as "normal/00001280_004.png"."""
    with open(Path(__file__).with_name("external.csv"), newline="", encoding="utf-8") as file:
        return {row["path"]: Known(row["git_blob_sha1"], row["patient"]) for row in csv.DictReader(file)}


def _find(requested: str | None, cache: Path, local: Path, download: bool, progress: bool):
    """Folder and where it is from, or None and why not; what the user asks for is never replaced."""
    wish = (requested or "").strip()
    if wish.lower() == "none":
        return None, "XRAY_EXTERNAL=none asks for no external test."
    root = Path(os.path.expanduser(wish or local))
    if os.path.isdir(root):
        return root, f"folder {root.resolve().name}"
    if wish:
        raise FileNotFoundError(f"XRAY_EXTERNAL={wish} is no folder. Remedy: {REMEDY}")
    if not download:
        return None, f"No folder {root.name} is here; downloading is switched off.\nRemedy: {REMEDY}"
    manifest, target = {path: known.sha1 for path, known in read_external().items()}, cache / "external"
    try:
        fetch_files(target, manifest, SOURCES, "The external images", REMEDY, by_content, progress)
    except DownloadError as error:
        return None, str(error)
    return target, "download"


def _list_files(root: Path) -> list[str]:
    """Relative paths, sorted by class and name."""
    found = images_in(root, CLASSES)
    if set(found) <= {"pneumonia"}:
        raise DataError(f"{root} holds neither covid/ nor normal/. Remedy: {REMEDY}")
    if empty := [name for name in found if not found[name]]:
        raise DataError(f"{root / empty[0]} holds no image. Remedy: {REMEDY}")
    return [f"{name}/{file}" for name, files in found.items() for file in files]


def _patient_of(file: str) -> str:
    """Patient of a file that is not in external.csv: NIH's names begin with the number."""
    match = re.match(r"\d{8}(?=_\d{3}\.)", Path(file).name)
    return f"nih_{match[0]}" if match else patient_of(file)


def load_external(
    requested: str | None,
    size: int = 224,
    cache_dir: str | os.PathLike | None = None,
    local: str | os.PathLike = "external",
    download: bool = True,
    progress: bool = True,
) -> External:
    """Load the external test set without the challenge's images and patients.

    A file is known by its hash or, as a copy may be reduced, by its class and name. Hashes alone do not keep
    the challenge out: 22 of the originals are its images, cropped anew under their old names, and one more
    is of a patient of the challenge. So a common patient or file name counts as well.

    Parameters
    ----------
    requested : the value of XRAY_EXTERNAL: a folder of class folders, "none", or None or "" for no wish
    size : side of the images in pixels
    cache_dir : folder for the download and the decoded images, `default_cache()` where None
    local : folder that is used without a wish where it is there, before a download
    download : whether the network may be used
    progress : show bars on stdout

    Raises
    ------
    FileNotFoundError
        `requested` is no folder.
    DataError
        A folder is unexpected, empty or wholly of the challenge, or a downloaded file has been changed.
    ImageError
        A file cannot be read or decoded.
    """
    cache = default_cache() if cache_dir is None else Path(cache_dir)
    root, where = _find(requested, cache, Path(local), download, progress)
    if root is None:
        return External(None, where)
    found = {file: git_blob_sha1(root / file) for file in _list_files(root)}
    originals = read_external()
    by_sha1 = {known.sha1: known for known in originals.values()}
    by_name = {path.rpartition(".")[0]: known for path, known in originals.items()}
    if where == "download" and (wrong := [file for file in found if found[file] not in by_sha1]):
        raise DataError(f"{root} holds a changed file: {name_some(wrong)}. Remedy: delete it and run again.")

    challenge = {x for path, known in read_manifest().items() for x in (*known, Path(path).stem)}
    patients = {}  # of the files that stay; an unknown file's patient is its name, and found among the names
    for file, sha1 in found.items():
        known = by_sha1.get(sha1) or by_name.get(file.rpartition(".")[0]) or Known(sha1, _patient_of(file))
        if challenge.isdisjoint((sha1, *known)):
            patients[file] = known.patient
    files = list(patients)
    classes = tuple(sorted({file.split("/")[0] for file in files}))
    if set(classes) <= {"pneumonia"}:
        raise DataError(f"{root} holds only images or patients of the challenge. Remedy: {REMEDY}")

    digests = [found[file] for file in files]
    images = ImageSet(
        images=read_xrays([root / file for file in files], size, -1, cache, progress, digests),
        labels=np.array([classes.index(file.split("/")[0]) for file in files], dtype=np.int64),
        class_names=classes,
        files=np.array(files),
        patients=np.array(list(patients.values())),
    )
    counts = ", ".join(f"{count} {name}" for name, count in images.counts().items())
    verified = sum(sha1 in by_sha1 for sha1 in digests)
    left_out = f"{len(found) - len(files)} more left out as images or patients of the challenge"
    return External(images, f"{counts}; {where}, {verified} of {len(files)} verified by hash; {left_out}")
