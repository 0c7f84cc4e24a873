"""Find the images: in a folder, by download, or as phantoms, and say which; know the challenge's files."""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import platformdirs

from .download import DownloadError, fetch_challenge
from .phantoms import write_phantoms

CLASS_TITLES = {
    "covid": "COVID-19",
    "normal": "Normal",
    "pneumonia_bac": "Bacterial pneumonia",
    "pneumonia_vir": "Viral pneumonia",
}
# In alphabetical order, which is the order of the labels.
TASK_CLASSES = {"two": ("covid", "normal"), "all": ("covid", "normal", "pneumonia_bac", "pneumonia_vir")}
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
REMEDY = (
    "Remedy: set XRAY_DATA to a folder that holds two/ and all/, each with train/ and test/, or unset it to "
    "download the images, or set XRAY_DATA=phantom for synthetic ones."
)


class DataError(ValueError):
    """A data folder that is not as it should be; the message names the file or folder and the remedy."""


class Known(NamedTuple):
    """What the manifest says of a file."""

    sha1: str
    patient: str


@dataclass(frozen=True)
class Source:
    """Where the images come from: `kind` is "folder", "download" or "phantom"."""

    root: Path
    kind: str
    notes: tuple[str, ...] = ()

    @property
    def is_phantom(self) -> bool:
        return self.kind == "phantom"

    @property
    def title(self) -> str:
        """Prefix for the titles of figures: empty for real images."""
        return "phantom data" if self.is_phantom else ""

    def banner(self) -> str:
        """Statement to print: one line for real images, a box for phantoms; never a path of the machine."""
        if not self.is_phantom:
            what = f"folder {self.root.resolve().name}" if self.kind == "folder" else "download"
            return "; ".join([f"Images: {what}, verified on loading", *self.notes])
        lines = ["PHANTOM DATA: drawings, not X-rays. No number below says anything about patients."]
        lines += "\n".join(["Why:", *self.notes]).splitlines()
        rule = "#" * 88
        return "\n".join([rule, *(f"#  {line}" for line in lines), rule])


def read_manifest() -> dict[str, Known]:
    """Hash and patient of the challenge's 454 files, by path."""
    with open(Path(__file__).with_name("manifest.csv"), newline="", encoding="utf-8") as file:
        return {row["path"]: Known(row["git_blob_sha1"], row["patient"]) for row in csv.DictReader(file)}


def patient_of(filename: str) -> str:
    """Patient that a file name tells of (Kermany's scheme); a file of no known patient is its own.

    Bacterial and viral files of one personNN count as one patient: a group too large never leaks.
    """
    stem = Path(filename).stem
    match = re.match(r"person\d+(?=_)|(?:NORMAL2-)?IM-\d+(?=-)", stem)
    return match[0] if match else stem


def default_cache() -> Path:
    """Folder for downloads and decoded images: $XRAY_CACHE, or the user's cache of the platform."""
    return Path(os.environ.get("XRAY_CACHE") or platformdirs.user_cache_dir("covid-xrays"))


def name_some(names: Sequence[str]) -> str:
    """At most three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def is_image(path: Path) -> bool:
    """Leave out desktop.ini, Thumbs.db, hidden files and the like: they come with the course's archive.

    A link counts even where it leads nowhere: reading it then names it, and no image is lost silently.
    """
    there = os.path.isfile(path) or os.path.islink(path)
    return there and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_in(root: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Sorted names of the images in each class folder that `root` holds; an empty folder has an empty list.

    Raises DataError if there is another folder, or one that cannot be listed.
    """
    try:
        folders = [p.name for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        if unexpected := [name for name in folders if name not in classes]:
            raise DataError(
                f"{root} holds the unexpected folder {name_some(unexpected)}; the classes are "
                f"{', '.join(classes)}. Remedy: rename it or take it out."
            )
        return {name: sorted(p.name for p in (root / name).iterdir() if is_image(p)) for name in folders}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}. Remedy: make it readable.") from error


def describe_source(source: Source, tasks: Sequence[str] = ("two", "all")) -> list[str]:
    """Say where a folder differs from the manifest: files that are missing, files that it does not know."""
    if source.is_phantom:
        return []
    known = [path for path in read_manifest() if path.split("/")[0] in tasks]
    here = {
        path.relative_to(source.root).as_posix()
        for task in tasks
        for path in (source.root / task).glob("*/*/*")
        if is_image(path)
    }
    missing, extra = [path for path in known if path not in here], sorted(here - set(known))
    lacks = f"{len(missing)} of the manifest's {len(known)} files missing: {name_some(missing)}"
    added = f"not in the manifest, so not verified ({len(extra)}): {name_some(extra)}"
    return [lacks] * bool(missing) + [added] * bool(extra)


def _described(root: Path, kind: str) -> Source:
    return Source(root, kind, tuple(describe_source(Source(root, kind))))


def _holds_tasks(root: Path) -> bool:
    return all(os.path.isdir(root / task) for task in TASK_CLASSES)


def find_source(
    requested: str | None,
    cache_dir: str | os.PathLike | None = None,
    local: str | os.PathLike = "data",
    download: bool = True,
    progress: bool = True,
) -> Source:
    """Find the images: where the user says, else in `local`, else by download, else phantoms.

    Parameters
    ----------
    requested : the value of XRAY_DATA: a folder, "phantom", or None or "" for no wish
    cache_dir : folder for downloads and phantoms, `default_cache()` where None
    local : folder that is used where it holds two/ and all/
    download : whether the network may be used
    progress : show bars on stdout

    Raises
    ------
    FileNotFoundError, DataError
        `requested` is no folder, or lacks two/ or all/: what the user asks for is never replaced. Or there
        are no images, and phantoms cannot be written to the cache.
    """
    cache = default_cache() if cache_dir is None else Path(cache_dir)
    wish = (requested or "").strip()
    if wish and wish.lower() != "phantom":
        root = Path(os.path.expanduser(wish))  # unlike Path's own, it never raises
        if not os.path.isdir(root):
            raise FileNotFoundError(f"XRAY_DATA={wish} is no folder. {REMEDY}")
        if not _holds_tasks(root):
            raise DataError(f"XRAY_DATA={wish} lacks two/ or all/. {REMEDY}")
        return _described(root, "folder")
    if wish:
        why = "XRAY_DATA=phantom asks for them.\nRemedy: unset XRAY_DATA for the real images."
    elif _holds_tasks(Path(local)):
        return _described(Path(local), "folder")
    elif not download:
        why = f"No folder {Path(local).name} holds two/ and all/; downloading is switched off.\n{REMEDY}"
    else:
        try:
            hashes = {path: known.sha1 for path, known in read_manifest().items()}
            return _described(fetch_challenge(cache, hashes, progress=progress), "download")
        except DownloadError as error:
            if _holds_tasks(cache / "challenge"):  # incomplete, but real
                return _described(cache / "challenge", "download")
            why = str(error)
    try:
        return Source(write_phantoms(cache / "phantoms"), "phantom", (why,))
    except OSError as error:
        raise DataError(
            f"{why}\nNor can phantoms be written to {cache / 'phantoms'}: {error.strerror or error}. Remedy: "
            "make room there, or set XRAY_CACHE to another folder."
        ) from error
