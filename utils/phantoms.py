"""Chest phantoms, drawn: stand-ins for the course's radiographs where those cannot be had.
Imports files of ours. A phantom follows the rough anatomy and signs of a frontal chest X-ray. It is NOT a
radiograph: it comes from no patient, and no score measured on it says anything about the real task."""

import hashlib
from itertools import product
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from .files import writing

SIGNS = ("covid", "normal", "pneumonia_bac", "pneumonia_vir")
TASKS = {"two": SIGNS[:2], "all": SIGNS}
COUNTS = {"train": dict(zip(SIGNS, (60, 70, 70, 70), strict=True)), "test": dict.fromkeys(SIGNS, 9)}
NAMES = {"pneumonia_bac": "person{person}_bacteria_{i}.png", "pneumonia_vir": "person{person}_virus_{i}.png"}


def _noise(rng, size, grain):
    """Smooth noise [size, size] of unit variance; `grain` is a fraction of the side."""
    field = gaussian_filter(rng.standard_normal((size, size), np.float32), max(grain * size, 0.5))
    return field / field.std()


def _vessels(rng, size):
    """Lines [size, size], 0 to 1, that grow from both hila outwards, and branch."""
    sheet, tips = Image.new("L", (size, size)), np.repeat([(0.42, 0.46), (0.59, 0.44)], 9, axis=0)
    draw, angles = ImageDraw.Draw(sheet), np.r_[np.linspace(1.7, 4.6, 9), np.linspace(-1.45, 1.45, 9)]
    for level in range(11):
        if level % 3 == 2:
            angles = np.repeat(angles, 2) + np.tile([-0.35, 0.35], len(tips))
            tips = np.repeat(tips, 2, axis=0)
        angles = angles + rng.normal(0, 0.2, len(tips))
        ends = tips + rng.uniform(0.016, 0.04, (len(tips), 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        fill, width = round(90 + 165 * 0.75**level), max(1, round(size * 0.014 * 0.84**level))
        for line in (np.hstack([tips, ends]) * size).tolist():
            draw.line(line, fill=fill, width=width)
        tips = ends
    return gaussian_filter(np.asarray(sheet, np.float32) / 255, size / 400)


def _chest(rng, u, v):
    """Healthy chest at `u` (to its left), `v` (down): attenuation, lungs (0 to 1), distance over wall's."""
    r, a = rng.uniform, np.abs(u)
    apex, base, wide, top = r(-0.75, -0.71), r(0.56, 0.6), r(0.69, 0.75), r(0.32, 0.36)
    wall = wide * (1 - (1 - (down := np.clip((v - apex) / (base - apex), 1e-3, 1))) ** 2.6) ** 0.44
    dome = top + 0.06 * expit(u / 0.07) + 0.35 * (a - 0.37) ** 2 + 1.3 * (a - 0.37).clip(0) ** 2
    shoulder = -0.88 + 0.22 * a - 0.5 * np.exp(-((a / 0.29) ** 3))
    axilla = -0.32 + 1.5 * np.maximum(a - (flank := wide + 0.12 + 0.03 * v), 0)
    body = expit(np.minimum(v - shoulder, np.maximum(flank - a, axilla - v)) / 0.012)
    depth = np.sqrt(np.clip(1 - (u / (flank + 0.04)) ** 2, 0, 1))
    depth = np.maximum(depth, 0.62 * expit((axilla - 0.06 - v) / 0.06) - 0.15 * a**2)
    heart = np.hypot((u - r(0.11, 0.16) - 0.4 * (v - top + 0.06)) / r(0.29, 0.34), (v - top + 0.06) / 0.24)
    for x, y, w, h in ((-0.05, top, 0.18, 0.25), (0.06, top - 0.28, 0.17, 0.3), (0.06, -0.26, 0.15, 0.13)):
        heart = np.minimum(heart, np.hypot((u - x) / w, (v - y) / h))
    heart, trunk = expit((1 - heart) / 0.05), 0.13 + 0.2 * np.exp(-np.maximum(v - apex, 0) / 0.1)
    lungs = expit((wall - a) / 0.011) * expit((a - trunk) / 0.018) * expit((dome - v) / 0.011)
    lungs = lungs * expit((v - apex) / 0.012) * (1 - 0.96 * heart)
    bones, first, gap = np.zeros_like(v), apex + r(0.09, 0.12), r(0.128, 0.136)
    for k in range(11):  # a rib is a tilted ring: a strong posterior arc above, a fainter anterior one below
        w = wide * (1 - (1 - min(1.0, 0.06 + 0.17 * k)) ** 2.2) ** 0.6 + 0.03
        arch = (0.1 + 0.032 * min(k, 6)) * np.sqrt(np.clip(1 - (a / w) ** 2, 0, 1))
        for y, weight in ((-arch, 0.12), (arch, 0.06 * expit((a - 0.36) / 0.03))):
            bones += (a < w) * weight * expit((0.024 - np.abs(v - first - gap * k - y)) / 0.005)
    clavicle = apex + 0.12 - 0.26 * (a - 0.1) - 0.035 * np.sin(5 * (a - 0.1))
    bones += 0.2 * expit((0.03 - np.abs(v - clavicle)) / 0.006) * expit((a - 0.09) / 0.012)
    spine = expit((0.085 - a) / 0.012) * (0.7 + 0.3 * np.sin(2 * np.pi * v / gap))
    soft = 0.2 + depth * (0.3 + 0.14 * expit((v - dome) / 0.011)) + 0.08 * heart + 0.13 * spine
    soft = soft - 0.1 * np.exp(-((u / 0.045) ** 4)) * expit((-0.22 - v) / 0.03)
    uneven = 0.02 * _noise(rng, len(v), 0.12)
    air = 0.2 + 0.15 * depth - 0.12 * _vessels(rng, len(v)) * (1 - 0.5 * down) + uneven
    return (soft - lungs * air + bones * (0.65 + 0.35 * lungs)) * body, lungs, a / wall


def _finding(sign, rng, u, v, lateral, lungs):
    """What a sign adds to the lungs' attenuation: by texture and place, their mean density stays."""
    r, net = rng.uniform, np.exp(-((_noise(rng, len(v), 0.011) / 0.3) ** 2))
    coarse, fine = _noise(rng, len(v), 0.025), _noise(rng, len(v), 0.007)
    if sign == "covid":  # granular haze in the outer and lower parts of both lungs
        place = expit((v - np.where(u < 0, *r(-0.5, 0.1, 2))) / 0.08) * expit((lateral - r(0.3, 0.5)) / 0.08)
        finding = place * (0.1 + 0.05 * coarse + 0.1 * fine)
    elif sign == "pneumonia_bac":  # one dense and blotchy lobe, with a sharp fissure
        side, lobe = rng.choice([-1, 1], 2)
        fissure = lobe * (v + r(0, 0.2) + r(-0.3, 0.3) * (u - side * 0.4))
        finding = expit(side * u / 0.03) * expit(fissure / 0.012) * (0.3 + 0.12 * np.tanh(1.5 * coarse))
    else:  # a net of thin lines (zero crossings of smooth noise), denser towards the hila; or nothing
        near = np.exp(-(((lateral - 0.2) / 0.3) ** 2))
        finding = (sign == "pneumonia_vir") * (0.08 * near + (0.14 + 0.22 * near) * net)
    finding = r(1, 1.4) * finding * lungs
    return finding - lungs * finding.sum() / lungs.sum()


def render_phantom(sign, rng, size=256, patient=None):
    """Draw a frontal chest phantom: uint8 [size, size], dense tissue bright; `patient` seeds the anatomy.
    Phantoms from equally seeded generators share patient, pose, exposure and noise: only the sign differs."""
    if sign not in SIGNS or size < 64:
        raise ValueError(f"no phantom {sign!r} of {size} pixels: {', '.join(SIGNS)}, 64 or more")
    # Own streams: what a sign draws must not shift pose, exposure or noise, or these would tell the class.
    anatomy, finding, film = map(np.random.default_rng, rng.integers(2**63, size=3))
    y, x = ((np.mgrid[:size, :size] + 0.5) * 2 / size - 1).astype(np.float32)
    turn, zoom = film.normal(0, 0.015), film.uniform(0.89, 0.95)  # a small angle is its sine
    u, v = zoom * (x - y * turn) + film.normal(0, 0.01), zoom * (x * turn + y) + film.uniform(-0.05, -0.01)
    total, lungs, lateral = _chest(anatomy if patient is None else np.random.default_rng(patient), u, v)
    total = gaussian_filter(total + _finding(sign, finding, u, v, lateral, lungs), size / 640)
    image = 0.92 * ((1 - np.exp(-film.uniform(1.8, 2) * total.clip(0))) / 0.8) ** film.uniform(0.95, 1.15)
    image = image + 0.006 * _noise(film, size, 0) * np.sqrt(image + 0.05)
    return np.round(255 * image.clip(0, 1)).astype(np.uint8)


def write_phantoms(root, seed=542, size=256, n_jobs=2):
    """Write the course's folder layout with phantoms below `root`, whole or not at all, and return its Path.
    Its name tells seed, size and this module's version: an older drawing is never taken for it. A pneumonia
    patient may have several images, in `train` or in `test`."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    target, rng, plan, patient = Path(root, f"{seed}-{size}-{version}"), np.random.default_rng(seed), {}, 0
    for split, sign in product(COUNTS, SIGNS):
        for i in range(COUNTS[split][sign]):
            patient += i == 0 or sign not in NAMES or bool(rng.random() < 0.7)
            name = NAMES.get(sign, f"phantom_{sign}_{patient:03d}.png").format(person=patient, i=i)
            own = np.random.default_rng([seed, len(plan)])
            plan[f"{split}/{sign}/{name}"] = sign, own, size, [seed, patient]
    paths = [Path(task, name) for task in TASKS for name in plan if plan[name][0] in TASKS[task]]
    if not all((target / path).is_file() for path in paths):
        images = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(render_phantom)(*a) for a in plan.values())
        drawn = dict(zip(plan, map(Image.fromarray, images), strict=True))
        with writing(target) as draft:
            for path in paths:
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                drawn[path.as_posix().partition("/")[2]].save(draft / path)
    return target
