"""Load the images with labels, file names and patients in step, and split them by patient."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from .images import git_blob_sha1, read_xrays
from .sources import CLASS_TITLES as CLASS_TITLES  # the notebooks import these from here
from .sources import REMEDY, TASK_CLASSES, DataError, Source, images_in, name_some, patient_of, read_manifest
from .sources import default_cache as default_cache
from .sources import describe_source as describe_source
from .sources import find_source as find_source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The n images of one split, in step with all that is known of them.

    images : uint8 [n, size, size, 3]; labels : int64 [n], positions in `class_names`;
    class_names : folder names; files : str [n], such as "two/train/covid/x.png", sorted by class, then name;
    patients : str [n].
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    files: np.ndarray
    patients: np.ndarray

    def __post_init__(self):
        if not len(self.images) == len(self.labels) == len(self.files) == len(self.patients):
            raise ValueError("images, labels, files and patients must have the same length")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray | slice) -> "ImageSet":
        """Images at `index`: int positions in the wanted order, a bool mask [n], or a slice."""
        parts = {name: getattr(self, name)[index] for name in ("images", "labels", "files", "patients")}
        return replace(self, **parts)

    def only(self, class_names: tuple[str, ...]) -> "ImageSet":
        """The images of some classes, in their order, numbered from 0; ValueError if one is absent."""
        if missing := [name for name in class_names if name not in self.class_names]:
            raise ValueError(f"there is no class {', '.join(missing)}, only {', '.join(self.class_names)}")
        chosen = self.subset(np.isin(self.labels, [self.class_names.index(name) for name in class_names]))
        labels = [class_names.index(self.class_names[label]) for label in chosen.labels]
        return replace(chosen, labels=np.array(labels, dtype=np.int64), class_names=class_names)

    def plus(self, other: "ImageSet") -> "ImageSet":
        """The images of both, this one's first; ValueError if their classes differ."""
        if self.class_names != other.class_names:
            raise ValueError(f"the classes differ: {self.class_names} and {other.class_names}")
        names = ("images", "labels", "files", "patients")
        return replace(self, **{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in names})

    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return {name: int(np.sum(self.labels == label)) for label, name in enumerate(self.class_names)}

    def patient_counts(self) -> dict[str, int]:
        """Patients of each class."""
        return {
            name: len(np.unique(self.patients[self.labels == label]))
            for label, name in enumerate(self.class_names)
        }

    def one_hot(self) -> np.ndarray:
        """Labels as float32 [n, k]."""
        return np.eye(len(self.class_names), dtype=np.float32)[self.labels]


def _list_files(root: Path, task: str, split: str) -> tuple[list[str], list[int]]:
    """Relative paths of one split, sorted by class and name, and their labels."""
    if task not in TASK_CLASSES:
        raise DataError(f"Unknown task {task!r}; expected one of {', '.join(TASK_CLASSES)}")
    folder, classes = root / task / split, TASK_CLASSES[task]
    if not os.path.isdir(folder):
        raise DataError(f"{folder} is missing. {REMEDY}")
    found, files, labels = images_in(folder, classes), [], []
    for label, name in enumerate(classes):
        if not found.get(name):
            raise DataError(f"{folder / name} is missing or holds no image. {REMEDY}")
        files += [f"{task}/{split}/{name}/{file}" for file in found[name]]
        labels += [label] * len(found[name])
    return files, labels


def load_images(
    source: Source,
    task: str,
    split: str,
    size: int = 224,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> ImageSet:
    """Load one split of one task; the challenge's own files are checked against their hashes.

    Parameters
    ----------
    source : from `find_source`
    task, split : "two" or "all"; "train" or "test"
    size : side of the images in pixels
    cache_dir : folder for the decoded images, or None for no cache
    progress : show a bar on stdout

    Raises
    ------
    DataError
        A folder is missing, empty or unexpected, or a file is not the one that its name promises.
    ImageError
        A file cannot be read or decoded.
    """
    files, labels = _list_files(source.root, task, split)
    digests = [git_blob_sha1(source.root / file) for file in files]
    manifest = {} if source.is_phantom else read_manifest()
    pairs = list(zip(files, digests, strict=True))
    if wrong := [file for file, sha1 in pairs if file in manifest and manifest[file].sha1 != sha1]:
        raise DataError(
            f"Not the challenge's file of that name: {name_some(wrong)}. Remedy: delete it and download "
            "again, or, where it is an image of your own, rename it."
        )
    # By content, so that a patient stays known when a file is moved or renamed.
    patients = {known.sha1: known.patient for known in manifest.values()}
    paths = [source.root / file for file in files]
    images = read_xrays(paths, size, cache_dir=cache_dir, progress=progress, digests=digests)
    return ImageSet(
        images=images,
        labels=np.array(labels, dtype=np.int64),
        class_names=TASK_CLASSES[task],
        files=np.array(files),
        patients=np.array([patients.get(sha1, patient_of(file)) for file, sha1 in pairs]),
    )


def grouped_folds(
    image_set: ImageSet, n_splits: int = 5, seed: int = 542
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split into folds that keep the class shares and never part the images of one patient.

    Returns
    -------
    list of (train, validation), sorted int positions; every image is in exactly one validation part

    Raises
    ------
    DataError
        A class has fewer patients than there are folds, so that a part would lack it.
    """
    labels, patients = image_set.labels, image_set.patients
    for label, name in enumerate(image_set.class_names):
        if (n := len(np.unique(patients[labels == label]))) < n_splits:
            raise DataError(
                f"Class {name} has {n} patients, too few for {n_splits} parts without a common patient. "
                "Remedy: fewer folds, or more patients."
            )
    # Shuffled here: up to scikit-learn 1.6 the splitter's own shuffle loses the stratification.
    _, patient = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(patient.max() + 1)
    parts = StratifiedGroupKFold(n_splits).split(labels, labels, order[patient])
    return [(np.sort(train), np.sort(rest)) for train, rest in parts]


def validation_split(
    image_set: ImageSet, fraction: float = 0.2, seed: int = 542
) -> tuple[np.ndarray, np.ndarray]:
    """First of the `grouped_folds` that each hold about `fraction` (at most 0.5) of the images out."""
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction must be in (0, 0.5], got {fraction}")
    return grouped_folds(image_set, round(1 / fraction), seed)[0]
