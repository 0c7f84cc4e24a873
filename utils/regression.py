"""What a rerun's scores must be, and why: ranges for full runs on the real images, structure for all others.

A rerun has the same images; seed, hardware and versions may differ. The ranges would hold for other images of
the same kind, and are wider than that: five seeds of Task 2's VGG16 have a standard deviation of 0.02. What
lies outside has most likely another cause than chance. "sd" is the binomial one, of that many images.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from .sources import read_manifest


class Range(NamedTuple):
    """The ends, both included, of what a score may be, and the argument for them."""

    low: float
    high: float
    basis: str


# Of every run, on whatever images and weights.
STRUCTURE = {
    "probabilities outside 0 to 1": Range(0, 0, "what a probability is"),
    "largest error of a sum of probabilities": Range(0, 1e-4, "rounding in float32"),
    "losses that are not finite": Range(0, 0, "else training has gone astray"),
    "training loss, last epoch over first": Range(0, 1, "training lowers its own loss"),
}
# Of a full run on the real images. Accuracies on true labels have no upper end: better weights may help.
FULL = {
    "Task 1": {
        "test accuracy": Range(0.83, 1, "15 of 18; 18 of 18 proves 0.824"),
        "cross-validated accuracy": Range(0.93, 1, "3.5 sd of 129 images below the worst variant, 0.977"),
        "accuracy of the file header": Range(0.92, 1, "Wilson's lower end of 0.969; no network is in it"),
        "accuracy on permuted labels": Range(0.46, 0.64, "one coin 0.50, larger class 0.543; 0.567 seen"),
    },
    "Task 2": {
        "test accuracy, VGG16": Range(0.56, 1, "Wilson's lower end of 26 of 36; five seeds from 0.667"),
        "test accuracy, MobileNet": Range(0.5, 1, "Wilson's lower end of 24 of 36, the lower of two seeds"),
        "test accuracy, better model": Range(0.66, 1, "24 of 36: 0.5 % likely to get fewer at 0.829"),
        "cross-validated accuracy, better model": Range(0.76, 1, "3 sd below 0.829; best shortcut 0.743"),
        "cross-validated accuracy, linear probe": Range(0.72, 1, "4 sd of 269 images below 0.814"),
        "accuracy on permuted labels": Range(0.2, 0.36, "chance 0.25, largest class 0.26; 0.267 seen"),
    },
}
# Upper ends for partial weights: beyond them a leak is likelier than luck.
HIGHEST = {
    "test accuracy, VGG16": (0.87, "the report's 27 of 36 proves at most 0.862"),
    "cross-validated accuracy, better model": (0.94, "4.8 sd above 0.829"),
}


def image_state(is_phantom, files):
    """What the files of a task are: "phantom", "real" (the challenge's, with 3 amiss at most) or "other"."""
    task = {path for path in read_manifest() if path.startswith(f"{files[0].split('/')[0]}/")}
    return "phantom" if is_phantom else "real" if len(task ^ set(files)) <= 3 else "other"


def weight_state(*reports):
    """Whether all, some or no convolutions of WeightReports are pre-trained: "full", "partial" or "none"."""
    if all(report.complete for report in reports):
        return "full"
    return "partial" if any(report.pretrained for report in reports) else "none"


def structure(probabilities, histories):
    """What must hold of any run, as scores for `check_scores`; the worst of all models.

    probabilities : list of float [n, 1] (sigmoid) or [n, classes] (softmax), one of each model.
    histories : list of dict, metric -> one value an epoch.
    """
    losses = [x for h in histories for name, values in h.items() if name.endswith("loss") for x in values]
    measured = (
        sum(int((~((p >= 0) & (p <= 1))).sum()) for p in probabilities),
        max((float(np.abs(p.sum(1) - 1).max()) for p in probabilities if p.shape[1] > 1), default=0.0),
        int((~np.isfinite(losses)).sum()),
        max(h["loss"][-1] / h["loss"][0] for h in histories),
    )
    return dict(zip(STRUCTURE, measured, strict=True))


def expected(task, source, weights, profile):
    """The ranges of a run: dict, score -> Range. ValueError if an argument is not one of those it may be."""
    known = (FULL, ("real", "phantom", "other"), ("full", "partial", "none"), ("full", "quick"))
    for value, choice in zip((task, source, weights, profile), known, strict=True):
        if value not in choice:
            raise ValueError(f"expected one of {', '.join(choice)}, not {value!r}")
    if (source, profile) != ("real", "full") or weights == "none":
        return STRUCTURE
    ranges = STRUCTURE | FULL[task]
    for name in set(ranges) & set(HIGHEST) if weights == "partial" else ():
        high, why = HIGHEST[name]
        ranges[name] = Range(ranges[name].low, high, f"{ranges[name].basis}; {why}")
    return ranges


def check_scores(task, scores, source, weights, profile):
    """Compare the scores of a run with their ranges.

    task : "Task 1" or "Task 2"; source : from `image_state`; weights : from `weight_state`; profile : "full"
    or "quick"; scores : dict, name -> number; those that have no range in such a run are left out.

    Returns a pandas.DataFrame, one row a range: value, low, high, basis. AssertionError if a score is outside
    its range, or absent: it names each with its value, range and basis.
    """
    ranges = expected(task, source, weights, profile)
    wrong = [
        f"{name} is {scores.get(name, 'absent')}, expected {r.low} to {r.high} ({r.basis})"
        for name, r in ranges.items()
        if not (name in scores and r.low <= scores[name] <= r.high)
    ]
    if wrong:
        run = f"{task}, {source} images, {weights} weights, profile {profile}"
        raise AssertionError("\n".join([f"{run}:", *wrong]))
    rows = {name: (scores[name], *r) for name, r in ranges.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", *Range._fields])
