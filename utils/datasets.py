"""Find the images, list them in one table with a row a file, and load them in step."""

import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .images import git_blob_sha1, read_images
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
# The part of a file's name that identifies the patient, in Kermany's and the NIH's
# collections. Bacterial and viral images of one "person97" count as one patient.
PATIENT_IN_NAME = (
    r"/(person\d+(?=_(?:bacteria|virus)_\d)|(?:NORMAL2-)?IM-\d+(?=-\d)"
    r"|\d{8}(?=_\d{3}\.))[^/]*$"
)


class DataError(ValueError):
    """Images that are missing or inconsistent; the message gives the remedy."""


class UnavailableError(RuntimeError):
    """No images: declined by the user, or not downloadable; the message says why."""


@dataclass(frozen=True)
class Collection:
    """What is known of a collection of images before it is found.

    Parameters
    ----------
    manifest : CSV file beside this module, a row a file: path, sha1 (git's blob hash),
        patient, view ("PA", "AP" or empty) and age (years or empty)
    local : where the images lie if the user names no folder
    folders : what such a folder holds
    remedy : what the user can do if the images are not found
    archives : addresses of zip archives, tried in turn
    pattern : where the images lie in each of the folders; hidden files are passed over
    """

    title: str
    manifest: str
    local: str
    folders: tuple[str, ...]
    remedy: str
    archives: tuple[str, ...]
    pattern: str = "[!.]*"

    def read_manifest(self) -> pd.DataFrame:
        """The manifest, and the name of each file: its path without suffix."""
        manifest = pd.read_csv(Path(__file__).parent / self.manifest)
        manifest["name"] = manifest["path"].str.rpartition(".")[0]
        return manifest


COLLECTIONS = {
    "challenge": Collection(
        title="Images of the challenge",
        manifest="manifest.csv",
        local="data",
        folders=("two", "all"),
        pattern="*/[!.]*/[!.]*",
        remedy='Remedy: name a folder with two and all in it, or "phantom".',
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
        remedy='Remedy: name a folder with covid, normal and pneumonia, or "none".',
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
        remedy='Remedy: name a folder with covid and normal in it, or "none".',
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
        return self.table["patient"].to_numpy(str)

    @property
    def files(self) -> np.ndarray:
        return self.table["path"].to_numpy(str)

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


@dataclass(frozen=True, eq=False)
class Source:
    """A collection of images that was found, or not.

    Parameters
    ----------
    root : folder that the paths of `table` are relative to
    table : a row a file, none if the images were not found: file (its full path),
        path (below `root`), name (`path` without suffix), stem, class_name, sha1,
        patient; of the manifest's file of the same name path_listed, sha1_listed, view
        ("PA" or "AP") and age (years), NaN where unknown
    note : what was found, or why there are no real images
    is_phantom : whether the images are drawings
    """

    collection: Collection
    root: Path
    table: pd.DataFrame
    note: str
    is_phantom: bool = False

    def describe(self) -> str:
        """A line for real images, a box for phantoms; without a path of the machine."""
        text = f"{self.collection.title}: {self.note}"
        if self.is_phantom:
            frame = "#" * 80
            return f"{frame}\n{text}\n{frame}"
        return text


def find_challenge(folder: str = "") -> Source:
    """Find the challenge's images, or draw phantoms.

    Parameters
    ----------
    folder : a folder with two/ and all/, each with train/ and test/; "phantom" for
        phantoms; "" for ./data, downloaded if it is missing

    Raises
    ------
    DataError
        If a folder is missing or empty, or phantoms cannot be written.
    """
    collection = COLLECTIONS["challenge"]
    try:
        root = _find_root(collection, folder)
    except UnavailableError as error:
        note = f"PHANTOMS, not X-rays. No number is about patients.\nReason: {error}"
        return _make_source(collection, _draw_phantoms(), note)
    return _make_source(collection, root)


def find_external(name: str, challenge: Source, folder: str = "") -> Source:
    """Find the images of another collection, on which nothing is trained.

    Parameters
    ----------
    name : "ozturk" or "actualmed"
    challenge : if it consists of phantoms, so does the external collection
    folder : a folder with the collection's classes; "none" to do without; "" for
        ./external or ./actualmed, downloaded if it is missing

    Raises
    ------
    DataError
        If a folder is missing or empty.
    """
    collection = COLLECTIONS[name]
    if challenge.is_phantom and folder != "none":
        root = challenge.root / collection.local
        return _make_source(collection, root, "PHANTOMS, as the challenge's images.")
    try:
        root = _find_root(collection, folder)
    except UnavailableError as error:
        note = f"not available: {error}"
        return Source(collection, Path(), challenge.table[:0], note)
    return _make_source(collection, root)


def _find_root(collection: Collection, folder: str) -> Path:
    """The folder of a collection's images, which may have to be downloaded."""
    if folder in ("phantom", "none"):
        raise UnavailableError("no X-rays were requested.")
    root = Path(folder or collection.local).expanduser()
    if not folder and not root.exists():
        _download(collection, root)
    return root


def _download(collection: Collection, target: Path) -> None:
    """Download a collection from the first archive that has all of it."""
    problem = "the download failed"
    for url in collection.archives:
        try:
            _download_archive(url, collection, target)
            return
        except Exception as error:  # of pooch, requests, zipfile or the disk
            problem += f"; {url}: {error}"
    raise UnavailableError(f"{problem}. {collection.remedy}")


def _download_archive(url: str, collection: Collection, target: Path) -> None:
    """Write the manifest's files, known by their hashes: all of them or none."""
    with warnings.catch_warnings(action="ignore"):  # tqdm: no ipywidgets
        import pooch
    pooch.get_logger().setLevel("WARNING")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=".") as temporary:
        files = pooch.retrieve(
            url,
            known_hash=None,
            path=temporary,
            processor=pooch.Unzip(extract_dir="unpacked"),
        )
        file_by_hash = {git_blob_sha1(file): file for file in files}
        complete = Path(temporary, "complete")
        for listed in collection.read_manifest().itertuples():
            if listed.sha1 not in file_by_hash:
                raise DataError(f"{listed.path} is missing or altered")
            copy = complete / listed.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file_by_hash[listed.sha1], copy)
        if not target.exists():  # another notebook may have been faster
            complete.rename(target)


def _draw_phantoms() -> Path:
    """The folder ./phantoms, drawn unless it exists."""
    root = Path("phantoms")
    try:
        if not root.is_dir():
            write_phantoms(root)
    except OSError as error:
        raise DataError(
            f"{root} cannot be written: {error}. Remedy: start in another folder."
        ) from error
    return root


def _make_source(collection: Collection, root: Path, phantom_note: str = "") -> Source:
    """List the images below `root`; a note makes them phantoms."""
    manifest = collection.read_manifest()
    root = root.resolve()
    files = pd.DataFrame(_list_files(collection, root))
    # By name, because reduced copies have another suffix and another hash.
    table = files.merge(manifest, how="left", on="name", suffixes=("", "_listed"))
    patient_of_hash = manifest.groupby("sha1")["patient"].first()
    by_hash = table["sha1"].map(patient_of_hash)
    in_name = table["path"].str.extract(PATIENT_IN_NAME)[0]
    # Equal files are one patient, whatever their names.
    in_name = in_name.groupby(table["sha1"]).transform("first")
    by_content = "sha_" + table["sha1"].str[:12]
    unlisted = in_name.fillna(by_content)
    table["patient"] = by_hash.fillna(table["patient"].fillna(unlisted))
    if phantom_note:
        table["view"] = "PA"  # so that what is computed for one view has images
        return Source(collection, root, table, phantom_note, is_phantom=True)
    n_verified = (table["sha1"] == table["sha1_listed"]).sum()
    note = f"folder {root.name}, {n_verified} of {len(table)} verified by hash"
    missing = np.setdiff1d(manifest["name"], table["name"])
    if missing.size:
        note += f"; {len(missing)} missing, first {missing[0]}"
    return Source(collection, root, table, note)


def _list_files(collection: Collection, root: Path) -> list[dict]:
    """A row a file: what its place tells, and its hash."""
    rows = []
    for folder in collection.folders:
        paths = sorted((root / folder).glob(collection.pattern), key=str)
        if not paths:
            raise DataError(f"{root / folder} has no images. {collection.remedy}")
        for path in paths:
            file = path.relative_to(root)
            row = {
                "file": path,
                "path": file.as_posix(),
                "name": file.with_suffix("").as_posix(),
                "stem": path.stem,
                "class_name": path.parent.name,
                "sha1": git_blob_sha1(path),
            }
            rows.append(row)
    return rows


def load_images(source: Source, task: str, split: str, size: int = 224) -> ImageSet:
    """Load the "train" or "test" images of the task "two" or "all".

    Raises
    ------
    DataError
        If a class has no images, a folder is no class of the task, or a file has the
        name of one of the challenge's files but other content.
    """
    place = f"{task}/{split}/"
    table = source.table[source.table["path"].str.startswith(place)]
    classes = TASK_CLASSES[task]
    present = set(table["class_name"])
    if present != set(classes):
        raise DataError(
            f"{place} has images of {sorted(present)}, not of {classes}. "
            f"{source.collection.remedy}"
        )
    altered = table.query("path == path_listed and sha1 != sha1_listed")["path"]
    if altered.size:
        raise DataError(
            f"{', '.join(altered)}: the content differs from the challenge's. "
            "Remedy: restore or rename the file."
        )
    return _read_rows(table, classes, size)


def load_external(source: Source, challenge: Source, size: int = 224) -> ImageSet:
    """Load an external collection without the challenge's images and patients.

    They are recognised by hash, patient and name, as some are cropped anew. An
    ImageSet of zero images where the source is missing.
    """
    table = source.table
    for column in ("sha1", "patient", "stem"):
        in_challenge = table[column].isin(challenge.table[column])
        table = table[~in_challenge]
    classes = source.collection.folders
    return _read_rows(table, classes, size)


def _read_rows(table: pd.DataFrame, classes: tuple[str, ...], size: int) -> ImageSet:
    """The images of some rows of a source's table."""
    labels = table["class_name"].map(classes.index)
    return ImageSet(
        images=read_images(table["file"], size),
        labels=labels.to_numpy(np.int64),
        class_names=classes,
        table=table.reset_index(drop=True),
    )


def count_table(**sets: ImageSet) -> pd.DataFrame:
    """Images and patients (columns, by set) of each class (rows)."""
    columns = {}
    for name, image_set in sets.items():
        groups = image_set.table.groupby("class_name")["patient"]
        counts = groups.agg(images="size", patients="nunique")
        counts = counts.reindex(image_set.class_names, fill_value=0)
        columns[name] = counts.set_axis(image_set.titles)
    return pd.concat(columns, axis="columns")
