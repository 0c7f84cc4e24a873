"""Draw phantoms, stand-ins for X-rays where these are not available.

A phantom is a bright disc or ring, whose zone and grain depend on the class. It is no
X-ray, and nothing that is measured on it says anything about patients. The signs
withstand flips and rotations, and a network with random weights can learn them.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIGNS = {  # inner and outer radius of the ring (1 is half a side), grain (1 is a side)
    "covid": (0.65, 0.95, 0.04),
    "normal": (0.0, 0.45, 0.12),
    "pneumonia_bac": (0.4, 0.7, 0.012),
    "pneumonia_vir": (0.0, 0.95, 0.004),
    "pneumonia": (0.4, 0.7, 0.012),
}
COUNTS = {  # two/ is a copy of a part of all/
    "all/train/covid": 60,
    "all/train/normal": 70,
    "all/train/pneumonia_bac": 70,
    "all/train/pneumonia_vir": 70,
    "all/test/covid": 9,
    "all/test/normal": 9,
    "all/test/pneumonia_bac": 9,
    "all/test/pneumonia_vir": 9,
    "external/covid": 12,
    "external/normal": 12,
    "external/pneumonia": 12,
    "actualmed/covid": 6,
    "actualmed/normal": 6,
}


def draw_phantom(sign: str, rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Draw a phantom of a class: uint8 [size, size]."""
    inner, outer, grain = SIGNS[sign]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    white_noise = rng.standard_normal((size, size))
    noise = gaussian_filter(white_noise, sigma=grain * size)
    brightness = rng.normal(180, 10)
    pixels = brightness + 40 * noise / noise.std()
    pixels[(radius < inner) | (radius > outer)] = 0
    return pixels.clip(0, 255).astype(np.uint8)


def write_phantoms(root: Path, size: int = 256) -> None:
    """Write two/, all/, external/ and actualmed/ below `root`.

    The folder appears only when it is complete. If it exists already, it is kept.
    """
    with tempfile.TemporaryDirectory(prefix=".drawing-", dir=root.parent) as temporary:
        complete = Path(temporary, "complete")
        _write_images(complete, size)
        try:
            complete.rename(root)
        except OSError:
            if not root.is_dir():  # another notebook may have been faster
                raise


def _write_images(root: Path, size: int) -> None:
    rng = np.random.default_rng(542)
    number = 0
    for place, count in COUNTS.items():
        folder = root / place
        folder.mkdir(parents=True)
        for k in range(count):
            number += 1
            patient = number - k % 2  # two images each, in one folder
            pixels = draw_phantom(folder.name, rng, size)
            # As in Kermany's collection, where the name tells the patient.
            Image.fromarray(pixels).save(folder / f"IM-{patient}-{number}_phantom.png")
    others = shutil.ignore_patterns("pneumonia_*")
    shutil.copytree(root / "all", root / "two", ignore=others)
