"""Procedural chest phantoms: stand-ins for the course's radiographs where those cannot be had.

A phantom is a drawing after the rough anatomy and signs of a frontal chest X-ray. It is NOT a radiograph: it
comes from no patient, has no medical meaning, and no score measured on it says anything about the real task.
"""

import os
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import expit

SIGNS = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")
TASKS = {"two": SIGNS[:2], "all": SIGNS}
COUNTS = {"train": dict(zip(SIGNS, (60, 70, 70, 70), strict=True)), "test": dict.fromkeys(SIGNS, 9)}
NAMES = dict(pneumonia_bac="person{person}_bacteria_{i}.png", pneumonia_vir="person{person}_virus_{i}.png")
MIN_SIZE = 64
CANVAS = 384  # side of the sheet for lines; fixed, so that the anatomy does not depend on `size`


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise [size, size] of unit variance; `scale` is its grain as a fraction of the side."""
    field = gaussian_filter(rng.standard_normal((size, size), np.float32), max(scale * size, 0.5))
    return field / field.std()


def _tree(rng, u, v, roots: np.ndarray, stems: int, width: float) -> np.ndarray:
    """Branching lines (0 to 1), seen at `u`, `v`, that grow outwards from `roots` [n, 2]."""
    sheet, tips = Image.new("L", (CANVAS, CANVAS)), np.repeat(roots, stems, axis=0)
    draw = ImageDraw.Draw(sheet)
    angles = np.where(tips[:, 0] < 0, np.pi, 0) + np.tile(np.linspace(-1.45, 1.45, stems), len(roots))
    for level in range(11):
        if level % 3 == 2:
            angles = np.repeat(angles, 2) + np.tile([-0.35, 0.35], len(tips))
            tips = np.repeat(tips, 2, axis=0)
        angles = angles + rng.normal(0, 0.2, len(tips))
        ends = tips + rng.uniform(0.03, 0.075, (len(tips), 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        thick = width * 0.75 * 0.84**level
        for line in ((np.hstack([tips, ends]) + 1) * CANVAS / 2).tolist():
            draw.line(line, fill=min(255, 90 + int(44 * thick)), width=max(1, round(thick)))
        tips = ends
    soft = gaussian_filter(np.asarray(sheet, dtype=np.float32) / 255, 0.9)
    return map_coordinates(soft, [(v + 1) * CANVAS / 2, (u + 1) * CANVAS / 2], order=1)


def _chest(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Healthy chest at `u` (to its left), `v` (down): attenuation, lungs (0 to 1), u by wall, hila [2, 2]."""
    r, a = rng.uniform, np.abs(u)
    apex, base, wide = r(-0.78, -0.68), r(0.5, 0.66), r(0.66, 0.78)
    t = np.clip((v - apex) / (base - apex), 1e-3, 1)
    wall = wide * (1 - (1 - t) ** 2.6) ** r(0.4, 0.48)
    top, bow = r(0.28, 0.4), a - r(0.32, 0.42)
    dome = top + r(0.03, 0.1) * expit(u / 0.07) + 0.35 * bow**2 + r(0.9, 1.8) * bow.clip(0) ** 2
    flank = wide * r(0.95, 1.0) + r(0.07, 0.17) + r(-0.02, 0.08) * v
    shoulder = r(-0.95, -0.82) + r(0.1, 0.35) * a - 0.5 * np.exp(-((a / r(0.26, 0.32)) ** 3))
    axilla = r(-0.42, -0.22) + r(-0.1, 3.0) * np.maximum(a - flank, 0)
    body = expit(np.minimum(v - shoulder, np.maximum(flank - a, axilla - v)) / 0.012)
    depth = np.sqrt(np.clip(1 - (u / (flank + 0.04)) ** 2, 0, 1))
    depth = np.maximum(depth, 0.62 * expit((axilla - 0.06 - v) / 0.06) - 0.15 * a**2)
    m, low = u - r(-0.03, 0.03), top - r(0.02, 0.1)
    heart = np.hypot((m - r(0.1, 0.17) - r(0.2, 0.6) * (v - low)) / r(0.27, 0.36), (v - low) / r(0.21, 0.27))
    atrium, waist = (-0.05, low + 0.02, r(0.15, 0.2), 0.25), (0.06, low - 0.22, 0.17, 0.3)
    for x, y, w, h in (atrium, waist, (0.06, -0.26, r(0.12, 0.18), 0.13)):
        heart = np.minimum(heart, np.hypot((m - x) / w, (v - y) / h))
    heart = expit((1 - heart) / 0.05)
    trunk = r(0.11, 0.15) + 0.2 * np.exp(-np.maximum(v - apex, 0) / 0.1)
    lungs = expit((wall - a) / 0.011) * expit((np.abs(m) - trunk) / 0.018) * expit((dome - v) / 0.011)
    lungs = lungs * expit((v - apex) / 0.012) * (1 - 0.96 * heart)
    bones, first, gap = np.zeros_like(v), apex + r(0.07, 0.14), r(0.122, 0.142)
    for k in range(11):
        # A rib is a tilted ring: its upper arc is the posterior part, its lower arc the fainter anterior one.
        w = wide * (1 - (1 - min(1.0, 0.06 + 0.17 * k)) ** 2.2) ** 0.6 + 0.03
        centre, h = first + gap * k, 0.1 + 0.032 * min(k, 6)
        rows = (np.abs(v - centre) < h + 0.06).any(axis=1)
        x, y = u[rows] / w, (v[rows] - centre) / h
        ring = np.hypot(x, y) + 1e-6
        off = np.abs(ring - 1) * ring / (np.hypot(x / w, y / h) + 1e-6)
        back = expit(-h * y / 0.02)
        arcs = back + 0.55 * (1 - back) * expit((a[rows] - 0.36) / 0.03)
        band = expit((0.02 + 0.001 * k - off) / 0.005) * (0.7 + 0.3 * np.minimum(off / 0.02, 1))
        bones[rows] += (0.13 if k < 9 else 0.06) * band * arcs
    clavicle = apex + r(0.06, 0.18) - r(0.12, 0.4) * (a - 0.1) - 0.035 * np.sin(5 * (a - 0.1))
    bones += 0.2 * expit((0.03 - np.abs(v - clavicle)) / 0.006) * expit((a - 0.09) / 0.012)
    spine = expit((0.085 - np.abs(m)) / 0.012) * (0.7 + 0.3 * np.sin(2 * np.pi * v / gap + r(0, 6)))
    hila = [(-0.15, -0.08), (0.17, -0.12)] + rng.normal(0, 0.015, (2, 2))
    vessels = _tree(rng, u, v, hila, 9, r(6, 8.5)) * (1 - 0.5 * t)
    total = 0.2 + depth * (0.3 + 0.14 * expit((v - dome) / 0.011)) + 0.08 * heart + 0.13 * spine
    total = total - 0.1 * np.exp(-((m / 0.045) ** 4)) * expit((-0.22 - v) / 0.03)
    total = total - lungs * (0.2 + 0.15 * depth - 0.12 * vessels) + bones * (0.65 + 0.35 * lungs)
    return total * body, lungs, u / wall, hila


def _finding(sign: str, rng: np.random.Generator, u, v, lateral, hila: np.ndarray) -> np.ndarray:
    """Attenuation [size, size] that the sign adds to the lungs; zero for `normal`."""
    r, size, severity = rng.uniform, len(v), 0.2 + 0.8 * rng.beta(1.3, 1.6)  # mild: classes overlap
    if sign == "covid":
        haze = np.zeros_like(v)
        for side in np.repeat([-1, 1], rng.integers(2, 5, 2)).tolist():
            x, y = side * r(0.4, 0.66), rng.triangular(-0.3, 0.35, 0.55)
            haze += r(0.5, 1) * np.exp(-(np.hypot((u - x) / r(0.12, 0.22), (v - y) / r(0.12, 0.25)) ** 2))
        haze = np.tanh(haze) * (1 + 0.35 * _noise(rng, size, 0.03) + 0.15 * _noise(rng, size, 0.01))
        return 0.24 * severity * haze * (0.35 + 0.65 * expit((np.abs(lateral) - 0.55) / 0.1))
    if sign == "pneumonia_bac":
        side, lobe = (1 if rng.random() < share else -1 for share in (0.5, 0.6))
        x, y = side * r(0.3, 0.5), r(-0.45, -0.25) if lobe < 0 else r(0.1, 0.35)
        fissure = lobe * (v - y + r(-0.3, 0.3) * (u - x)) + r(0.04, 0.14)
        reach = np.hypot((u - x) / r(0.22, 0.4), (v - y) / r(0.25, 0.4)) + 0.15 * _noise(rng, size, 0.05)
        mass = 0.34 * severity * expit((1 - reach) / 0.12) * expit(fissure / 0.012)
        return mass * (1 - 0.6 * _tree(rng, u, v, hila, 6, 7))
    if sign == "pneumonia_vir":
        near = sum(np.exp(-(np.hypot((u - x) / 0.32, (v - y - 0.1) / 0.5) ** 2)) for x, y in hila.tolist())
        # The zero crossings of smooth noise form a net of thin lines.
        net = sum(np.exp(-((_noise(rng, size, grain) / 0.22) ** 2)) for grain in (0.009, 0.014))
        return severity * (0.2 + 0.8 * near) * (0.035 + 0.12 * net + 0.1 * _tree(rng, u, v, hila, 14, 5))
    return np.zeros_like(v)


def _render(sign: str, anatomy_seed: int, shot_seed: int, size: int) -> np.ndarray:
    """Phantom of one patient (`anatomy_seed`) in one exposure (`shot_seed`)."""
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}; allowed: {', '.join(SIGNS)}")
    if size < MIN_SIZE:
        raise ValueError(f"size {size} is below {MIN_SIZE} pixels")
    # Two streams: what a sign draws must not shift pose, exposure or noise, or these would tell the class.
    film, finding = (np.random.default_rng([shot_seed, part]) for part in range(2))
    r = film.uniform
    y, x = ((np.mgrid[:size, :size] + 0.5) * 2 / size - 1).astype(np.float32)
    turn, zoom = film.normal(0, 0.03), r(0.84, 0.98)  # small angles: the sine is the angle
    u = zoom * r(0.97, 1.03) * (x - y * turn) + film.normal(0, 0.025)
    v = zoom * (x * turn + y) + r(-0.09, 0.03)
    total, lungs, lateral, hila = _chest(np.random.default_rng(anatomy_seed), u, v)
    total = total + lungs * _finding(sign, finding, u, v, lateral, hila)
    total = gaussian_filter(total * (1 + 0.02 * _noise(film, size, 0.04)), r(0.25, 0.7) * size / 256)
    image = (1 - np.exp(-r(1.6, 2.2) * total)) / (1 - np.exp(-r(1.45, 1.7))) + r(0, 0.05)
    image = r(0.86, 0.98) * image.clip(0, None) ** r(0.85, 1.35)
    image = image + r(0.004, 0.015) * _noise(film, size, 0) * np.sqrt(image + 0.05)
    right, left, low, high = r(0.9, 1.02, 4) if film.random() < 0.3 else np.full(4, 2)
    image = image * ((x < right) & (-x < left) & (y < low) & (-y < high))
    return np.round(255 * image.clip(0, 1)).astype(np.uint8)


def render_phantom(sign: str, rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Draw one frontal chest phantom: grey values, uint8 [size, size], dense tissue bright.

    Phantoms from equally seeded generators share patient, pose, exposure and noise: only the sign differs.

    Raises
    ------
    ValueError : for a sign that is not in `SIGNS` or a size below `MIN_SIZE`.
    """
    return _render(sign, *map(int, rng.integers(2**63, size=2)), size)


def _plan(seed: int) -> list[tuple[str, int, int, list[str]]]:
    """Sign, anatomy seed, exposure seed and relative paths of each of the distinct images."""
    rng, plan, person, anatomy = np.random.default_rng(seed), [], 0, 0
    for split, sign in product(COUNTS, SIGNS):
        more = 0
        for i in range(COUNTS[split][sign]):
            if more == 0:
                person, anatomy = person + 1, int(rng.integers(2**63))
                more = rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]) if sign in NAMES else 1
            more -= 1
            name = NAMES.get(sign, f"phantom_{sign}_{len(plan):03d}.png").format(person=person, i=i)
            paths = [f"{task}/{split}/{sign}/{name}" for task in TASKS if sign in TASKS[task]]
            plan.append((sign, anatomy, int(rng.integers(2**63)), paths))
    return plan


def _write_one(root: Path, sign: str, anatomy_seed: int, shot_seed: int, paths: list[str], size: int) -> None:
    image = Image.fromarray(_render(sign, anatomy_seed, shot_seed, size))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / path)


def write_phantoms(root: str | os.PathLike, seed: int = 542, size: int = 256, n_jobs: int = 2) -> Path:
    """Write the course's whole folder layout with phantoms under `root`, or nothing.

    It gets its name when it is whole, and a whole set is returned as it is. The files depend on `seed` and
    `size`, not on `n_jobs`. Pneumonia patients have one to three images, none in both `train` and `test`.

    Raises
    ------
    ValueError : for a size below `MIN_SIZE`. OSError : if `root` holds anything but a whole set.
    """
    root, plan = Path(root), _plan(seed)
    if len(list(root.glob("*/*/*/*.png"))) == sum(len(paths) for *_, paths in plan):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
        draft, pool = Path(folder, "set"), Parallel(n_jobs=n_jobs, prefer="threads")
        pool(delayed(_write_one)(draft, *job, size) for job in plan)
        os.replace(draft, root)
    return root
