"""How time and memory grow from 100 to 2,000 images: decoding, MobileNet's features, and a head on them.

The images are the phantoms, over and over again. The slope is that of log(seconds) against log(images).
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training_time import peak_memory

from utils import data, features, files, models, session, training

SEED, EPOCHS = 542, 10


def measure(base, paths, labels):
    """One row of the table."""
    laps = [time.perf_counter()]
    images = files.read_xrays(paths, progress=False)
    laps.append(time.perf_counter())
    views = features.frozen_features(base, images)[None]
    laps.append(time.perf_counter())
    head = partial(models.build_multiclass_head, views.shape[-1], seed=SEED)
    loss = session.keras.losses.CategoricalCrossentropy(from_logits=True)
    settings = {"loss": loss, "learning_rate": 1e-4, "epochs": EPOCHS, "batch_size": 10, "seed": SEED}
    training.fit_classifier(head, views, np.eye(4, dtype="float32")[labels], views[0, :0], **settings)
    laps.append(time.perf_counter())
    steps = ("decoding (s)", "features (s)", f"head, {EPOCHS} epochs (s)")
    seconds = dict(zip(steps, np.diff(laps).round(2), strict=True))
    return {"images": len(paths)} | seconds | {"peak memory (GiB)": round(peak_memory(), 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 500, 1000, 2000])
    parser.add_argument("--csv", type=Path, help="write the table to this file")
    options = parser.parse_args()
    session.prepare_keras(SEED)
    print(session.describe_machine())
    source = data.find_source("phantom")
    phantoms = data.load_images(source, "all", "train")
    base = models.feature_model(
        models.build_multiclass("MobileNet", download=False, seed=SEED)[0], "average_pool"
    )
    base.predict_on_batch(phantoms.images[:16])  # compiles
    rows = []
    for n in options.images:
        order = np.arange(n) % len(phantoms.labels)
        paths = [source.root / phantoms.files[k] for k in order]
        rows.append(measure(base, paths, phantoms.labels[order]))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    for name in table.columns[1:4] if len(table) > 1 else ():
        slope = np.polyfit(np.log(table["images"]), np.log(table[name] + 1e-3), 1)[0]
        print(f"slope of {name}: {slope:.2f}")
    if options.csv:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
