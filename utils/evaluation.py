"""Scores with their uncertainty, over patients as their images are not independent, and comparisons in pairs.
Imports nothing of ours."""

from collections import namedtuple

import numpy as np
import pandas as pd
from scipy import stats


class Interval(namedtuple("Interval", "value low high")):
    """A score and the ends of its confidence interval: `0.944 [0.742, 0.990]`; f"{x:+}" prints signs."""

    def __str__(self, sign=""):
        return f"{self.value:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"

    __format__ = __str__


def wilson(k, n, confidence=0.95):
    """The proportion k of n with its score interval (Wilson, 1927)."""
    if not 0 <= k <= n or n < 1:  # not every version of SciPy asks
        raise ValueError(f"{k} of {n} must be a proportion")
    interval = stats.binomtest(int(k), int(n)).proportion_ci(confidence, method="wilson")
    return Interval(float(k / n), float(interval.low), float(interval.high))


def bootstrap_by_group(score, groups, resamples=1000, seed=0, confidence=0.95, n=None):
    """Percentile interval of score(int positions), which may be NaN, over resampled groups, [n]: Interval."""
    members = [np.flatnonzero(np.equal(groups, group)) for group in np.unique(groups)]
    picks = np.random.default_rng(seed).integers(len(members), size=(resamples, len(members)))
    draws = [score(np.concatenate([members[k] for k in pick])) for pick in picks]
    value = float(score(np.arange(len(groups))))
    low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    if n and np.isclose(low, high):  # nothing moves the score, as all are right: Wilson's of n patients
        _, low, high = wilson(round(value * n), n, confidence)
    return Interval(value, float(low), float(high))


def patient_accuracy(right, patients, seed=0):
    """The share of images that are right, [n] of bool: Interval over patients, never a single point."""
    right, _ = np.stack([right, np.zeros(len(patients))])  # an error unless of one length
    return bootstrap_by_group(lambda k: right[k].mean(), patients, seed=seed, n=len(np.unique(patients)))


def _f1_and_auc(true, guess, score, patients, seed=0):
    """Means over columns, bool [n, k], bool and float [..., n, k]: Intervals of F1 and area under the ROC."""
    both, sizes = 2 * (true & guess), true + 1 * guess

    def auc(rows):  # by ranks (Mann and Whitney, 1947), 20 times as fast as scikit-learn's
        t, m = true[rows], true[rows].sum(0)
        u = (stats.rankdata(score[..., rows, :], axis=-2) * t).sum(-2) - m * (m + 1) / 2
        return (u / np.where(m % len(rows), m * (len(rows) - m), np.nan)).mean()  # NaN if a class is absent

    n = min(len(np.unique(patients[column == k])) for column in true.T for k in (0, 1))
    scores = (lambda k: np.mean(both[..., k, :].sum(-2) / np.maximum(sizes[..., k, :].sum(-2), 1)), auc)
    return [bootstrap_by_group(one, patients, seed=seed, n=n) for one in scores]


def binary_scores(y_true, y_score, patients):
    """Scores of a detector, where y_true is 1 for what it says above 0.5: dict of Interval over patients."""
    true, score, patients = np.equal(y_true, 1), np.asarray(y_score), np.asarray(patients)
    if true.shape != score.shape or true.all() or not true.any():
        raise ValueError(f"needs both classes, and as many scores as labels, not {y_true} and {y_score}")
    guess, parts = score > 0.5, {"accuracy": true | True, "sensitivity": true, "specificity": ~true}
    scores = {name: patient_accuracy((guess == true)[k], patients[k]) for name, k in parts.items()}
    both = difference(scores["sensitivity"], Interval(*-np.array(scores["specificity"])[[0, 2, 1]]))  # a sum
    f1, auc = _f1_and_auc(true[:, None], guess[:, None], score[:, None], patients)
    return scores | {"balanced accuracy": Interval(*(end / 2 for end in both)), "F1": f1, "AUC": auc}


def multiclass_scores(labels, probabilities, patients, seed=0):
    """Scores, AUC of each class against the rest, of [n, k], or their means over repeats [r, n, k]: dict."""
    p, classes = np.asarray(probabilities), np.eye(np.shape(probabilities)[-1], dtype=bool)
    true, guess = classes[labels], classes[p.argmax(-1)]
    right = (guess & true).sum(-1).reshape(-1, len(true)).mean(0)
    f1, auc = _f1_and_auc(true, guess, p, np.asarray(patients), seed)
    return {"accuracy": patient_accuracy(right, patients, seed), "macro F1": f1, "AUC": auc}


def per_class_table(y_true, y_pred, titles, patients):
    """One row a class, against the rest: sensitivity, specificity, F1, with intervals over patients."""
    scores = [binary_scores(np.equal(y_true, k), np.equal(y_pred, k), patients) for k, _ in enumerate(titles)]
    return pd.DataFrame(scores, index=titles, dtype=object)[["sensitivity", "specificity", "F1"]].map(str)


def mcnemar(right_a, right_b):
    """McNemar's exact test (1947), [n] of bool each: images that only a, only b has right; two-sided p."""
    a, b = np.stack([right_a, right_b])
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, float(stats.binomtest(only_a, max(only_a + only_b, 1)).pvalue)  # 0 of 1: p = 1


def holm(p):
    """P-values adjusted for their number by Holm's method (1979), in their order."""
    return np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)).clip(max=1)[np.argsort(np.argsort(p))]


def paired_difference(a, b, groups, confidence=0.95):
    """The mean of a - b on the same images, [n] of bool (right) or float (losses): Interval over groups."""
    a, b, _ = np.stack([a, b, np.zeros(len(groups))])
    if set(a) <= {0, 1} and (a == b).all():  # never a single point: at most Wilson's end for 0 of all groups
        end = wilson(0, len(np.unique(groups)), confidence).high
        return Interval(0.0, -end, end)
    return bootstrap_by_group(lambda k: (a - b)[k].mean(), groups, confidence=confidence)


def difference(a, b):
    """a - b of independent Intervals, their ends squared and added (Newcombe, 1998, method 10): Interval."""
    low, high = np.hypot(a.value - a.low, b.high - b.value), np.hypot(a.high - a.value, b.value - b.low)
    return Interval(a.value - b.value, float(a.value - b.value - low), float(a.value - b.value + high))


def accuracy_table(right, patients, groups):
    """How many images of each group (dict, name -> bool [n]) are right, [n] of bool, with both intervals."""
    rows, columns = {}, ["right", "images", "patients", "over images", "over patients"]
    for name, members in groups.items():
        ok, of = right[members], patients[members]
        over = [wilson(ok.sum(), len(ok)), patient_accuracy(ok, of)] if len(ok) else ["", ""]
        rows[name] = [int(ok.sum()), len(ok), len(set(of)), *map(str, over)]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def report_table(results, reported):
    """Rows of an `accuracy_table` less the report's (right, images); Fisher's exact p decides the outcome."""
    rows, columns = {}, ["report", "this run", "difference", "p", "outcome"]
    for name, (k, n) in reported.items():
        right, images = (int(results.loc[name, column]) for column in ("right", "images"))
        gap = difference(wilson(right, images), wilson(k, n))
        p = stats.fisher_exact([[right, images - right], [k, n - k]])[1]
        outcome = "no difference shown" if p >= 0.05 else "higher" if gap.value > 0 else "lower"
        rows[name] = [f"{k} of {n}", f"{right} of {images}", f"{gap:+}", f"{p:.2f}", outcome]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def _columns(probabilities):
    """Probabilities [n] or [n, 1] of label 1 as [n, 2]; [n, k] as they are."""
    p = np.asarray(probabilities, "float64").reshape(len(probabilities), -1)
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    return p if p.shape[1] > 1 else np.hstack([1 - p, p])


def image_losses(labels, probabilities):
    """Cross-entropy of each image, float64 [n], from probabilities [n] or [n, 1] of label 1, or [n, k]."""
    p, tiny = _columns(probabilities), np.finfo("float32").eps  # so 15.9 at most
    return -np.log(p[np.arange(len(p)), labels].clip(tiny, 1 - tiny))


def calibration(labels, probabilities):
    """Brier score (1950; 0 to 2) and expected calibration error (Naeini et al., 2015) of five bins: dict."""
    p, brier = _columns(probabilities), "Brier score (0 to 2)"
    k, confidence, right = p.shape[1], p.max(1), p.argmax(1) == labels
    bins = ((confidence - 1 / k) / (1 - 1 / k) * 5).astype(int).clip(0, 4)
    error = np.abs(np.bincount(bins, confidence - right)).sum() / len(p)
    return {brier: np.square(p - np.eye(k)[labels]).sum(1).mean(), "expected calibration error": error}


def variant_table(probabilities, labels, patients, reference, claims):
    """A row each of `probabilities` (dict), in pairs with `reference`: images that either alone has right;
    McNemar's p by Holm's method; difference of the loss over patients, at Bonferroni's confidence."""
    right = {name: _columns(p).argmax(1) == labels for name, p in probabilities.items()}
    losses = {name: image_losses(labels, p) for name, p in probabilities.items()}
    tests, rows = {name: mcnemar(right[name], right[reference]) for name in right if name != reference}, {}
    for name, ok in right.items():
        accuracy, loss = str(patient_accuracy(ok, patients)), f"{losses[name].mean():.4f}"
        rows[name] = {"report": claims.get(name, ""), "accuracy": accuracy, "loss": loss}
    for (name, (gained, lost, _)), p in zip(tests.items(), holm([t[2] for t in tests.values()]), strict=True):
        gap = paired_difference(losses[name], losses[reference], patients, 1 - 0.05 / len(tests))
        rows[name] |= {"gained": gained, "lost": lost, "p": p, "loss difference": f"{gap:+}"}
        same = "no difference shown"
        rows[name]["by accuracy"] = same if p >= 0.05 else "better" if gained > lost else "worse"
        rows[name]["by loss"] = "better" if gap.high < 0 else "worse" if gap.low > 0 else same
    return pd.DataFrame(rows).T.fillna("")
