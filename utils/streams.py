"""Arrays too large for memory: images that are decoded when they are asked for, features kept in a file."""

import contextlib
import os
from pathlib import Path

import numpy as np

from .images import read_xrays


class XrayFiles:
    """Radiographs as an array of images that holds none of them: a slice is decoded when it is asked for.

    Parameters
    ----------
    paths : n files, as for `utils.images.read_xray`.
    size : side of the images in pixels.

    Slices give uint8 [k, size, size, 3]; `utils.images.ImageError` for a file that cannot be decoded.
    """

    def __init__(self, paths, size=224):
        self.paths, self.size = list(paths), size

    def __len__(self):
        return len(self.paths)

    @property
    def shape(self):
        """Of all images: (n, size, size, 3)."""
        return len(self), self.size, self.size, 3

    def __getitem__(self, rows):
        return read_xrays(self.paths[rows], self.size, progress=False)


@contextlib.contextmanager
def array_file(path):
    """Write a float32 array batch by batch to a .npy file that appears only once it is whole.

    Yields a function (batch, n): the first batch fixes the shape of a row, n is the number of rows in all.
    ValueError, and no file, if other than n rows were written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, state = path.with_suffix(f".{os.getpid()}.part"), {"missing": 1}
    try:
        with open(aside, "wb") as file:

            def write(batch, n):
                if not file.tell():
                    shape = {"descr": "<f4", "fortran_order": False, "shape": (n, *batch.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, shape)
                    state["missing"] = n
                file.write(np.ascontiguousarray(batch, "<f4").data)
                state["missing"] -= len(batch)

            yield write
        if state["missing"]:
            raise ValueError(f"{path} lacks {state['missing']} rows")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def open_rows(path):
    """The array of a .npy file, memory-mapped and read-only: rows are read when they are indexed."""
    return np.load(path, mmap_mode="r", allow_pickle=False)
