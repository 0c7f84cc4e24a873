"""What mixed precision saves and what it changes: Task 2's VGG16, features and head, in each precision.

The head is cross-validated on the training images by patient; the test images are not looked at.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.session import quiet_startup, weight_options

with quiet_startup():
    import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

from utils import backend, chains, data, evaluation, features, models, studies

SEED, EPOCHS, FOLDS = 542, 40, 2


def measure(policy, image_set, folds):
    """Features and held-out scores in one precision; a row, and the features."""
    keras.config.set_dtype_policy(policy)
    backend.set_seeds(SEED)
    model, _ = models.build_multiclass("VGG16", seed=SEED, **weight_options(os.environ.get("XRAY_WEIGHTS")))
    base = chains.feature_model(model, "flatten")
    base.predict_on_batch(image_set.images[:16])  # compiles
    began = time.perf_counter()
    views = features.view_features(base, image_set.images, 0, SEED)
    seconds, began = time.perf_counter() - began, time.perf_counter()
    probabilities, _ = studies.cross_validate(
        partial(models.build_multiclass_head, views.shape[-1], seed=SEED),
        views,
        image_set.one_hot(),
        folds,
        policy,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        learning_rate=1e-4,
        epochs=EPOCHS,
        batch_size=10,
        seed=SEED,
    )
    right = probabilities.argmax(1) == image_set.labels
    return {
        "precision": policy,
        "features (s)": round(seconds, 1),
        f"head, {FOLDS} folds of {EPOCHS} epochs (s)": round(time.perf_counter() - began, 1),
        "held-out accuracy": str(evaluation.wilson(right.sum(), len(right))),
        "held-out loss": round(log_loss(image_set.labels, probabilities), 3),
    }, views


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    print(backend.describe_machine())
    source = data.find_source(os.environ.get("XRAY_DATA"))
    print(source.banner())
    image_set = data.load_images(source, "all", "train", 224, data.default_cache())
    folds = data.grouped_folds(image_set, FOLDS, SEED)
    policies = ["float32", "mixed_bfloat16"] + (["mixed_float16"] if backend.has_gpu() else [])
    rows, exact = [], None
    for policy in policies:
        row, views = measure(policy, image_set, folds)
        exact = views if exact is None else exact
        row["largest change of a feature"] = (
            f"{np.abs(views - exact).max() / np.abs(exact).max():.1e} of the largest"
        )
        rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if options.csv and not source.is_phantom:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
