"""Cost of growing work: features of 100 to 20,000 images from files, streamed to a file, and a head on them.

The images are phantoms, drawn once and repeated under other names (hard links), so that the files are many
but cheap to make; decoding, features and training see them as different images. Prints a table, writes it as
CSV, and draws seconds and memory against the number of images with the measured slope (log-log).
"""

import argparse
import math
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.session import quiet_startup

with quiet_startup():
    import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils import backend, chains, data, features, models, streams, training

SEED = 542


class AnonymousMemory:
    """The largest resident memory of this process within a `with`, without pages of mapped files, in GiB."""

    def __enter__(self):
        self.peak, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _watch(self):
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            sizes = {
                line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmRSS"))
            }
            self.peak = max(self.peak, int(sizes.get("RssAnon", sizes["VmRSS"])) / 1024**2)
            if self.done.wait(0.05):
                return


def make_files(folder, n):
    """n files of phantoms in a folder, and a label for each."""
    source = data.find_source("phantom")
    drawn = [path for path in sorted((source.root / "all" / "train").glob("*/*")) if path.is_file()]
    classes = sorted({path.parent.name for path in drawn})
    paths = []
    for k in range(n):
        original = drawn[k % len(drawn)]
        paths.append(folder / f"{k:06d}{original.suffix}")
        if not paths[-1].exists():
            os.link(original, paths[-1])
    labels = [classes.index(drawn[k % len(drawn)].parent.name) for k in range(n)]
    return paths, np.eye(len(classes), dtype="float32")[labels]


def measure(backbone, paths, targets, folder, epochs):
    """One row: seconds and memory of features and head for these files."""
    model, _ = models.build_multiclass(backbone, seed=SEED, download=False)
    layer = "flatten" if backbone.startswith("VGG") else "average_pool"
    base = chains.feature_model(model, layer)
    base.predict_on_batch(np.zeros((16, 224, 224, 3), "uint8"))  # compiles
    with AnonymousMemory() as memory:
        began = time.perf_counter()
        images, file = streams.XrayFiles(paths), folder / "features.npy"
        stored = features.frozen_features(base, images, label=backbone, announce=0, file=file)
        middle = time.perf_counter()
        head = models.build_multiclass_head(stored.shape[-1], seed=SEED)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        training.fit_classifier(head, stored[None], targets, None, loss, 1e-4, epochs, 32, SEED)
        seconds = time.perf_counter() - middle
    return {
        "backbone": backbone,
        "images": len(paths),
        "features (s)": round(middle - began, 1),
        f"head, {epochs} epochs (s)": round(seconds, 1),
        "peak memory (GiB)": round(memory.peak, 2),
        "decoded images (GiB)": round(math.prod(images.shape) / 1024**3, 2),
        "features (GiB)": round(file.stat().st_size / 1024**3, 2),
    }


def draw(table, file):
    """Time and memory of each backbone against the number of images."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, rows in table.groupby("backbone"):
        n, seconds = rows["images"], rows["features (s)"]
        slope = np.polyfit(np.log(n), np.log(seconds), 1)[0]
        (line,) = axes[0].loglog(n, seconds, "o-", label=f"{name}, slope {slope:.2f}")
        colour = line.get_color()
        axes[1].semilogx(n, rows["peak memory (GiB)"], "o-", color=colour, label=f"{name}, measured")
        at_once = rows["decoded images (GiB)"] + rows["features (GiB)"]
        axes[1].semilogx(n, at_once, ":", color=colour, label=f"{name}, images and features alone")
    axes[0].set(xlabel="images", ylabel="seconds", title="Decoding and features")
    axes[1].set(xlabel="images", ylabel="GiB", title="Peak memory, without mapped files")
    for ax in axes:
        ax.legend(fontsize=9)
    fig.savefig(file, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mobilenet", type=int, nargs="+", default=[100, 1000, 5000, 20000])
    parser.add_argument("--vgg", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for scale.csv, scale.svg"
    )
    options = parser.parse_args()
    print(backend.describe_machine())
    rows = []
    with tempfile.TemporaryDirectory(dir=data.default_cache()) as folder:
        folder = Path(folder)
        paths, targets = make_files(folder, max(*options.mobilenet, *options.vgg))
        for backbone, sizes in (("MobileNet", options.mobilenet), ("VGG16", options.vgg)):
            for n in sizes:
                rows.append(measure(backbone, paths[:n], targets[:n], folder, options.epochs))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "scale.csv", index=False)
    draw(table, options.out / "scale.svg")


if __name__ == "__main__":
    main()
