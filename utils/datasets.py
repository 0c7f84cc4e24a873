"""Find the images, list them in one table with a row a file, and load them in step."""

import os
import shutil
import socket
import tempfile
import textwrap
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .images import SUFFIXES, git_blob_sha1, read_images
from .phantoms import write_phantoms

CLASS_TITLES = {
    "covid": "COVID-19",
    "normal": "Normal",
    "pneumonia_bac": "Bacterial pneumonia",
    "pneumonia_vir": "Viral pneumonia",
    "pneumonia": "Pneumonia",
}
TASK_CLASSES = {  # alphabetical: a label is the position of its class
    "two": ("covid", "normal"),
    "all": ("covid", "normal", "pneumonia_bac", "pneumonia_vir"),
}
PLACE = ("task", "split", "class_name", "path", "name", "sha1")  # of a file
MIN_PATIENTS = 5  # of a class, for five folds by patient
TIMEOUT = 20  # seconds that a server may stay silent
# The part of a file's name that identifies the patient, in Kermany's and the NIH's
# collections. Bacterial and viral images of one "person97" count as one patient.
PATIENT_IN_NAME = (
    r"/(person\d+(?=_(?:bacteria|virus)_\d)|(?:NORMAL2-)?IM-\d+(?=-\d)"
    r"|\d{8}(?=_\d{3}\.))[^/]*$"
)


class DataError(ValueError):
    """Images that are missing or inconsistent; the message gives the remedy."""


class DownloadError(RuntimeError):
    """Images that cannot be downloaded; the message gives the reasons."""


@dataclass(frozen=True)
class Collection:
    """What is known of a collection of images before it is found.

    Parameters
    ----------
    manifest : CSV file beside this module: path, hash, patient (and view) of each file
    local : where the images lie if the user names no folder
    folders : what such a folder holds
    levels : what each folder on the way to a file stands for
    substitute : what the user names instead of a folder to do without
    archives : addresses of zip archives, tried in turn
    """

    title: str
    manifest: str
    local: str
    folders: tuple[str, ...]
    levels: tuple[str, ...]
    substitute: str
    archives: tuple[str, ...]

    @property
    def remedy(self) -> str:
        folders = " and ".join(self.folders)
        return f'Remedy: name a folder with {folders} in it, or "{self.substitute}".'


COLLECTIONS = {
    "challenge": Collection(
        title="Images of the challenge",
        manifest="manifest.csv",
        local="data",
        folders=("two", "all"),
        levels=("task", "split", "class_name"),
        substitute="phantom",
        archives=(
            "https://github.com/randreas/Covid-Classification/archive/"
            "3bebabca8840c9d4227d75d6cac86ac9d69c06d1.zip",
            "https://github.com/jgj98/Covid-19-Neural-Network/archive/"
            "7569ced49911d2deeb97859f127a1763205c6f4d.zip",
        ),
    ),
    "ozturk": Collection(
        title="External images of Ozturk et al.",
        manifest="external.csv",
        local="external",
        folders=("covid", "normal", "pneumonia"),
        levels=("class_name",),
        substitute="none",
        archives=(
            "https://github.com/muhammedtalo/COVID-19/archive/"
            "11f2ec7edd3a298b4a6081605ec7b458cc770fae.zip",
        ),
    ),
    "actualmed": Collection(
        title="External images of Actualmed",
        manifest="actualmed.csv",
        local="actualmed",
        folders=("covid", "normal"),
        levels=("class_name",),
        substitute="none",
        archives=(
            "https://github.com/agchung/Actualmed-COVID-chestxray-dataset/archive/"
            "27240dd8dec9454bc97f9f3c0c432ef434de2517.zip",
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in step with their labels and their rows of a source's table.

    images: uint8 [n, size, size, 3]; labels: int64 [n], positions in `class_names`;
    table: n rows, see `Source`.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def patients(self) -> np.ndarray:
        return self.table["patient"].to_numpy(dtype=str)

    @property
    def files(self) -> np.ndarray:
        return self.table["path"].to_numpy(dtype=str)

    @property
    def titles(self) -> list[str]:
        return [CLASS_TITLES[name] for name in self.class_names]

    def subset(self, rows) -> "ImageSet":
        """The images at `rows`: int positions in the wanted order, or a bool mask."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            table=self.table.iloc[rows].reset_index(drop=True),
        )

    def join(self, other: "ImageSet") -> "ImageSet":
        """The images of both, this set's first."""
        if self.class_names != other.class_names:
            raise ValueError(f"{self.class_names} and {other.class_names} differ")
        return replace(
            self,
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels]),
            table=pd.concat([self.table, other.table], ignore_index=True),
        )

    def one_hot(self) -> np.ndarray:
        """The labels as float32 [n, classes]."""
        return np.eye(len(self.class_names), dtype=np.float32)[self.labels]


@dataclass(frozen=True, eq=False)
class Source:
    """A collection of images that was found, or not.

    Parameters
    ----------
    name : "challenge", "ozturk" or "actualmed"
    kind : "folder", "download", "phantom" or "missing"
    root : folder that the paths of `table` are relative to
    table : a row a file: task, split, class_name, path, sha1, patient, verified
        (whether its hash is the original's), view ("PA", "AP" or "") and age (years,
        NaN where unknown)
    note : files that are missing or were passed over; why there are no real images
    """

    name: str
    kind: str
    root: Path
    table: pd.DataFrame
    note: str = ""

    @property
    def is_phantom(self) -> bool:
        return self.kind == "phantom"

    def describe(self) -> str:
        """A line for real images, a box for phantoms; without a path of the machine."""
        title = COLLECTIONS[self.name].title
        if self.kind == "missing":
            return f"{title} not available: {self.note}"
        if self.is_phantom:
            frame = "#" * 80
            lines = [
                frame,
                f"{title}: PHANTOMS, drawings in place of X-rays.",
                "No number below says anything about patients.",
                textwrap.fill(f"Reason: {self.note}", width=80, break_on_hyphens=False),
                frame,
            ]
            return "\n".join(lines)
        n_verified = self.table["verified"].sum()
        text = f"{title}: {self.kind} {self.root.name}, "
        text += f"{n_verified} of {len(self.table)} verified by hash"
        return text + self.note


def find_challenge(folder: str = "", download: bool = True) -> Source:
    """Find the challenge's images, or draw phantoms.

    Parameters
    ----------
    folder : a folder with two/ and all/, each with train/ and test/; "phantom" for
        phantoms; "" for ./data or ../data, else a download into ./data
    download : whether to download if there is no folder

    Raises
    ------
    DataError
        If the folder is missing or incomplete, or phantoms cannot be written.
    """
    if folder.strip().lower() == "phantom":
        return _draw_phantoms("they were requested.")
    try:
        root, kind = _find_root(COLLECTIONS["challenge"], folder, download)
    except DownloadError as error:
        return _draw_phantoms(str(error))
    return _make_source("challenge", kind, root)


def find_external(
    name: str, challenge: Source, folder: str = "", download: bool = True
) -> Source:
    """Find the images of another collection, on which nothing is trained.

    Parameters
    ----------
    name : "ozturk" or "actualmed"
    challenge : if it consists of phantoms, so does the external collection
    folder : a folder with the collection's classes; "none" to do without; "" for
        external/ or actualmed/ here or in the folder above, else a download
    download : whether to download if there is no folder

    Raises
    ------
    DataError
        If the folder is missing or incomplete.
    """
    collection = COLLECTIONS[name]
    if folder.strip().lower() == "none":
        return _missing_source(name, "not requested.")
    if challenge.is_phantom:
        root = challenge.root / collection.local
        return _make_source(name, "phantom", root, "so are the challenge's images.")
    try:
        root, kind = _find_root(collection, folder, download)
    except DownloadError as error:
        return _missing_source(name, str(error))
    return _make_source(name, kind, root)


def _find_root(collection: Collection, folder: str, download: bool) -> tuple[Path, str]:
    """The folder of a collection's images and its kind, "folder" or "download"."""
    local = Path(collection.local)
    above = ".." / local
    if folder.strip():
        root = Path(os.path.expanduser(folder.strip()))
    elif local.exists():
        root = local
    elif (above / collection.folders[0]).is_dir():
        root = above
    elif download:
        _download(collection, local)
        return local.resolve(), "download"
    else:
        problem = f"there is no folder {local}, and downloads are switched off"
        raise DownloadError(f"{problem}. {collection.remedy}")
    for name in collection.folders:
        if not os.path.isdir(root / name):
            raise DataError(f"{root} has no folder {name}. {collection.remedy}")
    return root.resolve(), "folder"


def _download(collection: Collection, target: Path) -> None:
    """Download a collection from the first archive that has all of it."""
    manifest = _read_manifest(collection)
    problems = []
    for url in collection.archives:
        repository = url.partition("/archive/")[0]
        try:
            _download_archive(url, manifest, target)
            return
        except Exception as error:  # Keras raises no narrower class
            cause = error.__context__ or error
            problems.append(f"{repository}: {cause}")
    problem = "; ".join(problems)
    raise DownloadError(f"the download failed ({problem}). {collection.remedy}")


def _download_archive(url: str, manifest: pd.DataFrame, target: Path) -> None:
    """Write the manifest's files, known by their hashes: all of them or none."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=".") as temporary:
        archive = _get_file(url, temporary)
        unpacked = Path(temporary, "unpacked")
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(unpacked)
        complete = Path(temporary, "complete")
        for path in unpacked.rglob("*.*"):
            if path.is_file():
                same = manifest["sha1"] == git_blob_sha1(path)
                for file in manifest.loc[same, "path"]:
                    copy = complete / file
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        for file in manifest["path"]:
            if not (complete / file).exists():
                raise DataError(f"{file} is missing or altered")
        if not target.exists():  # another notebook may have been faster
            complete.rename(target)


def _get_file(url: str, folder: str) -> str:
    """Download with Keras, which has no time limit of its own."""
    import keras  # here, because it takes seconds

    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return keras.utils.get_file(
            "archive.zip", origin=url, cache_dir=folder, cache_subdir=""
        )
    finally:
        socket.setdefaulttimeout(limit)


def _draw_phantoms(reason: str) -> Source:
    """Phantoms in ./phantoms; the note gives the reason."""
    root = Path("phantoms").resolve()
    try:
        write_phantoms(root)
    except OSError as error:
        problem = f"{reason} Phantoms cannot be written to {root}: {error}."
        raise DataError(f"{problem} Remedy: start in another folder.") from error
    return _make_source("challenge", "phantom", root, reason)


def _missing_source(name: str, reason: str) -> Source:
    table = _make_table([], _read_manifest(COLLECTIONS[name]))
    return Source(name, "missing", Path(), table, reason)


def _make_source(name: str, kind: str, root: Path, note: str = "") -> Source:
    """List the images below `root`."""
    collection = COLLECTIONS[name]
    manifest = _read_manifest(collection)
    rows = []
    passed_over = []
    for path in root.glob("*/" * len(collection.levels) + "*"):
        file = path.relative_to(root)
        if file.parts[0] not in collection.folders or file.name.startswith("."):
            continue
        if file.suffix.lower() not in SUFFIXES:
            passed_over.append(file.as_posix())
            continue
        row = dict(zip(collection.levels, file.parts, strict=False))
        row["path"] = file.as_posix()
        row["name"] = file.with_suffix("").as_posix()
        row["sha1"] = git_blob_sha1(path)
        rows.append(row)
    table = _make_table(rows, manifest)
    if kind == "phantom":
        table["view"] = "PA"  # so that what is computed for one view has images
    else:
        missing = set(manifest["name"]) - {row["name"] for row in rows}
        note = _count_names("missing", missing)
        note += _count_names("passed over", passed_over)
    return Source(name, kind, root, table, note)


def _count_names(text: str, names: Iterable[str]) -> str:
    """Such as "; 2 missing, first a.png"; nothing for no names."""
    if not names:
        return ""
    return f"; {len(names)} {text}, first {min(names)}"


def _read_manifest(collection: Collection) -> pd.DataFrame:
    """A row a file: path, name (without suffix), sha1, patient, view, age."""
    folder = Path(__file__).parent
    manifest = pd.read_csv(folder / collection.manifest)
    ages = pd.read_csv(folder / "ages.csv")
    manifest = manifest.rename(columns={"git_blob_sha1": "sha1"})
    manifest = manifest.merge(ages, on="path", how="left")
    manifest["name"] = manifest["path"].str.rpartition(".")[0]
    if "view" not in manifest:
        manifest["view"] = ""
    return manifest


def _make_table(rows: list[dict], manifest: pd.DataFrame) -> pd.DataFrame:
    """The table of a source from the places and hashes of its files."""
    table = pd.DataFrame(rows, columns=PLACE, dtype=object)
    table = table.fillna("").sort_values("path", ignore_index=True)
    # By name, for reduced copies have another suffix and another hash.
    table = table.merge(manifest, how="left", on="name", suffixes=("", "_listed"))
    table["verified"] = table["sha1"] == table["sha1_listed"]
    table["view"] = table["view"].fillna("")

    patient_by_hash = manifest.drop_duplicates("sha1").set_index("sha1")["patient"]
    in_name = table["path"].str.extract(PATIENT_IN_NAME, expand=False)
    by_hash = table["sha1"].map(patient_by_hash)
    patient = "sha_" + table["sha1"].str[:12]
    for known in (in_name, table["patient"], by_hash):  # the surest last
        # Equal files are one patient, whatever their names.
        of_file = known.groupby(table["sha1"]).transform("first")
        patient = patient.mask(of_file.notna(), of_file)
    table["patient"] = patient
    return table.drop(columns=["name", "path_listed", "sha1_listed"])


def load_images(source: Source, task: str, split: str, size: int = 224) -> ImageSet:
    """Load the "train" or "test" images of the task "two" or "all".

    Raises
    ------
    DataError
        If a class has too few images, a folder is no class of the task, or a file
        bears the name of one of the challenge's, but not its content.
    """
    remedy = COLLECTIONS["challenge"].remedy
    classes = TASK_CLASSES[task]
    table = source.table.query("task == @task and split == @split")
    unknown = set(table["class_name"]).difference(classes)
    if unknown:
        raise DataError(f"{task}/{split} has unknown classes: {unknown}. {remedy}")
    n_needed = 1
    if split == "train":
        n_needed = MIN_PATIENTS
    patients = table.groupby("class_name")["patient"].nunique()
    for class_name in classes:
        n_patients = patients.get(class_name, 0)
        if n_patients < n_needed:
            place = f"{task}/{split}/{class_name}"
            problem = f"{place} has {n_patients} patients, and needs {n_needed}"
            raise DataError(f"{problem}. {remedy}")
    if not source.is_phantom:
        listed = _read_manifest(COLLECTIONS["challenge"])
        altered = table["path"].isin(listed["path"]) & ~table["verified"]
        for path in table.loc[altered, "path"]:
            problem = f"{path} differs from the challenge's file of this name"
            raise DataError(f"{problem}. Remedy: restore or rename it.")
    return _read_rows(source, table, classes, size)


def load_external(source: Source, challenge: Source, size: int = 224) -> ImageSet:
    """Load an external collection without the challenge's images and patients.

    They are recognised by hash, patient and name, as some are cropped anew. An
    ImageSet of zero images where the source is missing.
    """
    table = source.table
    known = challenge.table
    in_challenge = (
        table["sha1"].isin(known["sha1"])
        | table["patient"].isin(known["patient"])
        | table["path"].map(_stem).isin(known["path"].map(_stem))
    )
    classes = COLLECTIONS[source.name].folders
    return _read_rows(source, table[~in_challenge], classes, size)


def _stem(path: str) -> str:
    return Path(path).stem


def _read_rows(
    source: Source, table: pd.DataFrame, classes: tuple[str, ...], size: int
) -> ImageSet:
    """The images of some rows of a source's table."""
    paths = [source.root / path for path in table["path"]]
    labels = table["class_name"].map(classes.index)
    return ImageSet(
        images=read_images(paths, size),
        labels=labels.to_numpy(dtype=np.int64),
        class_names=classes,
        table=table.reset_index(drop=True),
    )


def count_table(**sets: ImageSet) -> pd.DataFrame:
    """Images and patients (columns, by set) of each class (rows)."""
    columns = {}
    for name, image_set in sets.items():
        groups = image_set.table.groupby("class_name")["patient"]
        counts = groups.agg(images="size", patients="nunique")
        counts = counts.reindex(list(image_set.class_names), fill_value=0)
        columns[name] = counts.set_axis(image_set.titles)
    return pd.concat(columns, axis="columns")


def shared_patients(one: ImageSet, other: ImageSet) -> list[str]:
    """Patients with images in both sets, sorted."""
    return np.intersect1d(one.patients, other.patients).tolist()
