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

ZONES = {  # inner and outer radius of the ring, as shares of the image's half
    "covid": (0.65, 0.95),
    "normal": (0.0, 0.45),
    "pneumonia_bac": (0.4, 0.7),
    "pneumonia_vir": (0.0, 0.95),
    "pneumonia": (0.4, 0.7),
}
GRAINS = {  # of the noise in the ring, as a share of the image's side
    "covid": 0.04,
    "normal": 0.12,
    "pneumonia_bac": 0.012,
    "pneumonia_vir": 0.004,
    "pneumonia": 0.012,
}
NAMES = {  # as in Kermany's collection, where a patient may have several images
    "pneumonia_bac": "person{patient}_bacteria_{number}_phantom.png",
    "pneumonia_vir": "person{patient}_virus_{number}_phantom.png",
}
COUNTS = {
    "all/train": {"covid": 60, "normal": 70, "pneumonia_bac": 70, "pneumonia_vir": 70},
    "all/test": {"covid": 9, "normal": 9, "pneumonia_bac": 9, "pneumonia_vir": 9},
    "external": {"covid": 12, "normal": 12, "pneumonia": 12},
    "actualmed": {"covid": 12, "normal": 12},
}
FOLDERS = ("two", "all", "external", "actualmed")


def draw_phantom(sign: str, rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Draw a phantom of a class: uint8 [size, size]."""
    inner, outer = ZONES[sign]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    white_noise = rng.standard_normal((size, size))
    noise = gaussian_filter(white_noise, sigma=GRAINS[sign] * size)
    brightness = rng.normal(180, 10)
    pixels = brightness + 40 * noise / noise.std()
    pixels[(radius < inner) | (radius > outer)] = 0
    return pixels.clip(0, 255).astype(np.uint8)


def write_phantoms(root: str | Path, seed: int = 542, size: int = 256) -> Path:
    """Write two/, all/, external/ and actualmed/ below `root`, and return it.

    Each appears only when it is complete; what exists already is kept.
    """
    root = Path(root)
    missing = [folder for folder in FOLDERS if not (root / folder).is_dir()]
    if not missing:
        return root
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".drawing-", dir=root) as temporary:
        complete = Path(temporary)
        _write_images(complete, seed, size)
        for folder in missing:
            _move_unless_there(complete / folder, root / folder)
    return root


def _move_unless_there(source: Path, target: Path) -> None:
    """Move a folder; another notebook may have written the same one meanwhile."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _write_images(root: Path, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    number = 0
    for place, counts in COUNTS.items():
        for sign, count in counts.items():
            folder = root / place / sign
            folder.mkdir(parents=True)
            for k in range(count):
                number += 1
                template = NAMES.get(sign, "phantom_{number}.png")
                name = template.format(number=number, patient=number - k % 2)
                pixels = draw_phantom(sign, rng, size)
                Image.fromarray(pixels).save(folder / name)
    for split in ("train", "test"):
        for sign in ("covid", "normal"):
            shutil.copytree(root / "all" / split / sign, root / "two" / split / sign)
