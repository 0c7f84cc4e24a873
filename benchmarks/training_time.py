"""Time the training of both tasks on this machine, in one run.

VGG16, which is frozen, on the same images and the same split:

course     in every epoch, as in the course's template, each training image is
           augmented anew and passed through VGG16; Keras' Adam trains the head
ours       8 augmented copies of each image and the image itself pass through VGG16
           once; then the head is trained on these features
floor      as many forward passes, and the memory traffic of the head's training at
           the speed of a copy

MobileNet, all layers of which are trained:

ours       `fit` with images that are augmented anew in every epoch, and validation
bare loop  `train_on_batch` on batches in memory, without either

The course's pipeline and MobileNet are measured for a few epochs and extrapolated:
the first epoch, which includes compiling, and the fastest of the others for the rest.
XRAY_DATA names the folder of the images, XRAY_WEIGHTS that of the weights.
"""

import argparse
import math
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import environment  # first, because it imports Keras quietly
from utils.augmentation import course_augmentation
from utils.datasets import ImageSet, find_challenge, load_images
from utils.environment import keras
from utils.fitting import Experiment, Samples, augmented_features, fit_fold
from utils.folds import Fold, validation_split
from utils.kernels import FusedAdam
from utils.losses import BinaryFocalLoss
from utils.models import build_backbone, build_classifier, build_head

SEED = 542
BATCH_SIZE = 10
N_FEATURES = 7 * 7 * 512  # of VGG16
# In a step the gradient of a head's weights is written; then Adam reads it, the
# weights and two moments, and writes the weights and both moments.
PASSES_OVER_HEAD = 8
TASK_1 = {"loss": BinaryFocalLoss(), "learning_rate": 5e-4, "epochs": 40}
TASK_2 = {"loss": "categorical_crossentropy", "learning_rate": 1e-4, "epochs": 100}
COLUMNS = ["task", "kind", "device", "model", "pipeline", "epochs", "seconds", "note"]


def device_name() -> str:
    """The GPU's or the processor's name, and the backend."""
    if environment.has_gpu():
        *_, gpu, _ = environment.describe_machine().split(", ")
        return f"{gpu}, {environment.BACKEND}"
    name = platform.processor()
    information = Path("/proc/cpuinfo")  # only on Linux
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    return f"{name}, {os.cpu_count()} cores, {environment.BACKEND}"


def time_runs(action, repeats: int) -> np.ndarray:
    """Seconds of each run of an action."""
    times = [time.perf_counter()]
    for _ in range(repeats):
        action()
        times.append(time.perf_counter())
    return np.diff(times)


def copy_speed() -> float:
    """Bytes a second that a copy reads and writes, on the GPU or on all cores."""
    cores = os.cpu_count()
    source = np.ones((cores, 2**27 // cores), "float32")
    target = np.empty_like(source)
    if environment.has_gpu():
        source = keras.ops.convert_to_tensor(source)

    def copy():
        if environment.has_gpu():
            keras.ops.convert_to_numpy((source + 1)[0, :1])  # waits for the GPU
        else:
            list(pool.map(np.copyto, target, source))

    with ThreadPoolExecutor(cores) as pool:
        seconds = time_runs(copy, repeats=5)
    return 2 * target.nbytes / min(seconds)


def extrapolate(seconds: np.ndarray, epochs: int) -> float:
    """Seconds of all epochs from those of the first few."""
    return seconds[0] + (epochs - 1) * min(seconds[1:])


def time_fit(
    model: keras.Model, experiment: Experiment, fold: Fold, measured: int
) -> float:
    """Seconds of all epochs of a compiled model's `fit`."""
    images = experiment.samples.plain
    targets = experiment.samples.targets
    times = [time.perf_counter()]

    def record(epoch, logs):
        times.append(time.perf_counter())

    model.fit(
        images[fold.train],
        targets[fold.train],
        batch_size=BATCH_SIZE,
        validation_data=(images[fold.held_out], targets[fold.held_out]),
        epochs=measured,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=record)],
    )
    return extrapolate(np.diff(times), experiment.epochs)


def time_vgg16(experiment: Experiment, fold: Fold, options) -> pd.DataFrame:
    """Rows of the three pipelines; the experiment's samples are the images."""
    backbone, source = build_backbone("VGG16", options.weights)
    print(source)
    flat = keras.layers.Flatten()(backbone.output)
    extractor = keras.Model(backbone.input, flat)
    extractor.trainable = False
    augmentation = course_augmentation(SEED)

    head = experiment.build(SEED)
    model = keras.Sequential([augmentation, extractor, head])
    adam = keras.optimizers.Adam(experiment.learning_rate)
    model.compile(adam, experiment.loss)
    course = time_fit(model, experiment, fold, options.epochs)

    images = experiment.samples.plain
    start = time.perf_counter()
    features = replace(
        experiment.samples,
        views=augmented_features(extractor, images, augmentation, options.views),
        plain=extractor.predict(images, verbose=0),
    )
    features_end = time.perf_counter()
    fit_fold(replace(experiment, samples=features), fold, SEED)
    ours = time.perf_counter() - start

    passes = time_runs(lambda: extractor.predict(images, verbose=0), repeats=3)
    steps = experiment.epochs * math.ceil(len(fold.train) / BATCH_SIZE)
    traffic = steps * PASSES_OVER_HEAD * 4 * head.count_params()
    speed = copy_speed()
    floor = (options.views + 1) * min(passes) + traffic / speed

    print(f"course / ours: {course / ours:.1f} (aim: 4 in Task 1, 10 in Task 2)")
    print(f"ours / floor: {ours / floor:.2f} (aim: 1.2)")
    table = pd.DataFrame({"seconds": {"course": course, "ours": ours, "floor": floor}})
    table["note"] = [
        f"{options.epochs} epochs measured",
        f"{features_end - start:.1f} s of it for the features",
        f"a copy moves {speed / 1e9:.0f} GB/s",
    ]
    return table.assign(model="VGG16")


def time_mobilenet(experiment: Experiment, fold: Fold, options) -> pd.DataFrame:
    """Rows of `fit` and of the bare loop."""
    backbone, source = build_backbone("MobileNet", options.weights)
    print(source)
    classifier = build_classifier(backbone, n_outputs=4)
    model = keras.Sequential([course_augmentation(SEED), classifier])
    adam = FusedAdam(experiment.learning_rate)
    model.compile(adam, experiment.loss)
    ours = time_fit(model, experiment, fold, options.epochs)

    bare_model = build_classifier(backbone, n_outputs=4)
    bare_model.compile(FusedAdam(experiment.learning_rate), experiment.loss)
    images = experiment.samples.plain[fold.train]
    targets = experiment.samples.targets[fold.train]

    def train():
        for start in range(0, len(images), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            bare_model.train_on_batch(images[batch], targets[batch])

    seconds = time_runs(train, options.epochs)
    bare = extrapolate(seconds, experiment.epochs)
    print(f"MobileNet, ours / bare loop: {ours / bare:.2f}")
    table = pd.DataFrame({"seconds": {"ours": ours, "bare loop": bare}})
    note = f"{options.epochs} epochs measured"
    return table.assign(model="MobileNet", note=note)


def make_experiment(image_set: ImageSet, settings: dict) -> Experiment:
    """The report's head; its samples are the images, in place of their features."""
    images = image_set.images
    targets = keras.utils.to_categorical(image_set.labels)
    if targets.shape[1] == 2:
        targets = targets[:, 1:]  # of a sigmoid
    return Experiment(
        Samples(images[np.newaxis], images, targets, image_set.patients),
        build=lambda seed: build_head(N_FEATURES, targets.shape[1], seed=seed),
        **settings,
    )


def write_rows(path: Path, table: pd.DataFrame) -> None:
    """Put the rows into a CSV file, in place of its rows of the same device."""
    if path.exists():
        others = pd.read_csv(path, keep_default_na=False)
        others = others[~others["device"].isin(table["device"])]
        table = pd.concat([others, table])
    table.to_csv(path, columns=COLUMNS, index=False)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="to measure; 2 or more")
    parser.add_argument("--csv", type=Path, help="replace this machine's rows there")
    parser.add_argument("--short", action="store_true", help="only see that it works")
    parser.set_defaults(views=8, weights=os.environ.get("XRAY_WEIGHTS", ""))
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be at least 2")
    if options.short:
        options.epochs = 2
        options.views = 1
    return options


def main() -> None:
    options = parse_options()
    environment.prepare_keras(SEED)
    print(environment.describe_machine())
    source = find_challenge(os.environ.get("XRAY_DATA", ""))
    print(source.describe())
    tables = []
    for name, folder, settings in ("Task 1", "two", TASK_1), ("Task 2", "all", TASK_2):
        image_set = load_images(source, folder, "train")
        if options.short:
            image_set = image_set.subset(slice(None, None, 8))
            settings = settings | {"epochs": 2}
        experiment = make_experiment(image_set, settings)
        fold = validation_split(image_set.labels, image_set.patients, seed=SEED)
        results = [time_vgg16(experiment, fold, options)]
        if name == "Task 2":
            results.append(time_mobilenet(experiment, fold, options))
        table = pd.concat(results).assign(task=name, epochs=experiment.epochs)
        tables.append(table)
    table = pd.concat(tables).rename_axis("pipeline").reset_index().round(1)
    table["device"] = device_name()
    table["kind"] = "GPU" if environment.has_gpu() else "CPU"
    print(table[COLUMNS].to_string(index=False))
    if options.csv and not (options.short or source.is_phantom):
        write_rows(options.csv, table)


if __name__ == "__main__":
    main()
