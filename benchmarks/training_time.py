"""Time the training of both tasks: the course's pipeline, ours, and the floor. Same images, weights, batches.

course     every epoch every image passes the frozen VGG16 and the head (`model.fit`), as in the template
ours       every image passes the frozen VGG16 once; the head is fitted on these features (the notebooks' way)
floor      one forward pass of each image, and the matrix products of the head alone
bare loop  MobileNet: `train_on_batch` on arrays in memory, nothing else

Nothing is augmented, and all pipelines of a model see the same batches in the same order, so that the losses
must agree. The table is printed; with --csv it also replaces this machine's rows in that file.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import pandas as pd

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.session import peak_memory, quiet_startup, weight_options

with quiet_startup():
    import keras
import numpy as np
from tqdm import tqdm
from tqdm.keras import TqdmCallback

from utils import architecture, backend, chains, data, features, models, training
from utils.losses import BinaryFocalLoss

SEED, BATCH_SIZE = 542, 10
# Both pipelines do the same sums in another order, and rounding grows over the steps of a fit.
ABSOLUTE, RELATIVE = 1e-4, 0.02  # tolerance of a loss: ABSOLUTE + RELATIVE * loss


def device():
    """The accelerator's name, else the processor's, without the name of the machine."""
    if backend.has_gpu():
        return backend.accelerator(keras.backend.backend())
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def peak(dtype, n, repeats=5):
    """Measured multiply-adds a second of square matrix products, the best of some; in billions."""
    a = keras.ops.cast(np.random.default_rng(0).normal(size=(n, n)), dtype)
    best = np.inf
    for _ in range(repeats + 1):
        began = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(a, a)[:1, :1])
        best = min(best, time.perf_counter() - began)
    return n**3 / best / 1e9


def settings(task):
    """Loss, metric, learning rate, builder and epochs of a task's VGG16."""
    if task == "Task 1":
        loss, rate, epochs = BinaryFocalLoss(0.25, 2.0, from_logits=True), 5e-4, 40
        return loss, keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"), rate, epochs
    loss, rate, epochs = keras.losses.CategoricalCrossentropy(from_logits=True), 1e-4, 100
    return loss, keras.metrics.CategoricalAccuracy(name="accuracy"), rate, epochs


def build(task, name):
    """The report's model, anew from the same seed."""
    backend.set_seeds(SEED)
    options = {"seed": SEED, **weight_options(os.environ.get("XRAY_WEIGHTS"))}
    if task == "Task 1":
        return models.build_vgg16_binary(**options)
    return models.build_multiclass(name, **options)


def run_course(task, model, images, targets, train, rest, epochs):
    """Fit the whole model on images, compiled as Keras decides; the history and the seconds of each epoch."""
    loss, accuracy, rate, _ = settings(task)
    whole = chains.logits_model(model)
    whole.compile(keras.optimizers.Adam(rate), loss, metrics=[accuracy])
    stamps = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: stamps.append(time.perf_counter()))
    bar = TqdmCallback(verbose=0, tqdm_class=tqdm, file=sys.stdout, leave=False, desc="course's pipeline")
    fitted = whole.fit(
        features.ViewBatches(images[train][None], targets[train], BATCH_SIZE, SEED),
        validation_data=(images[rest], targets[rest]),
        epochs=epochs,
        shuffle=False,  # ViewBatches shuffles, as for fit_classifier
        verbose=0,
        callbacks=[bar, clock],
    )
    return fitted.history, np.diff(stamps)


def run_ours(task, model, images, targets, train, rest, epochs):
    """Features of all images once, then the head; history, seconds of the two parts, and of the floor."""
    loss, _, rate, _ = settings(task)
    base, head = chains.split_at(model, "flatten")
    base.predict_on_batch(images[:16])  # compiles
    began = time.perf_counter()
    views = features.view_features(base, images, 0, SEED)
    once = time.perf_counter() - began
    floor = once + epochs * products(views[0, train], head)
    began, held_out = time.perf_counter(), (views[0, rest], targets[rest])
    fit = training.fit_classifier(
        head, views[:, train], targets[train], held_out, loss, rate, epochs, BATCH_SIZE, SEED
    )
    return fit.history, once, time.perf_counter() - began, floor


def products(inputs, head, repeats=5):
    """Seconds of an epoch's matrix products with the head's largest kernel: outputs and gradient, no more."""
    kernel = keras.ops.convert_to_tensor(head.get_weights()[0])
    batches = [
        keras.ops.convert_to_tensor(inputs[k : k + BATCH_SIZE]) for k in range(0, len(inputs), BATCH_SIZE)
    ]
    best = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        for batch in batches:
            out = keras.ops.matmul(batch, kernel)
            gradient = keras.ops.matmul(keras.ops.transpose(batch), out)
        keras.ops.convert_to_numpy(gradient[:1, :1])
        best = min(best, time.perf_counter() - began)
    return best


def mobilenet_laps(images, targets, train, epochs):
    """Seconds of each epoch of MobileNet by `fit_classifier`, and by `train_on_batch` on arrays in memory.

    An epoch of the bare loop follows each of ours, so that a slow minute of the machine slows both.
    """
    loss, accuracy, rate, _ = settings("Task 2")
    whole = chains.logits_model(build("Task 2", "MobileNet")[0])
    whole.compile(keras.optimizers.Adam(rate), loss, metrics=[accuracy])
    batches = features.ViewBatches(images[train][None], targets[train], BATCH_SIZE, SEED)
    model, laps = build("Task 2", "MobileNet")[0], {"ours": [], "bare loop": []}

    class InTurn(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            laps["ours"].append(time.perf_counter() - self.began)
            resident, began = [batches[k] for k in range(len(batches))], time.perf_counter()
            whole.reset_metrics()
            for batch in resident:
                whole.train_on_batch(*batch)
            laps["bare loop"].append(time.perf_counter() - began)
            batches.on_epoch_end()

    shared = (loss, rate, epochs, BATCH_SIZE, SEED)
    training.fit_classifier(model, images[None, train], targets[train], None, *shared, callbacks=[InTurn()])
    return laps


def extrapolated(laps, epochs):
    """Seconds of all epochs: the first one, which also compiles, and the fastest of the others for the rest.

    The fastest, because what else a machine does only ever adds to a time.
    """
    if len(laps) == epochs:
        return sum(laps)
    return laps[0] + (epochs - 1) * min(laps[1:])


def compare(name, first, second):
    """Print how far two losses lie apart; whether they agree."""
    limit = ABSOLUTE + RELATIVE * abs(first)
    print(
        f"{name}: {first:.6g} and {second:.6g}, difference {abs(first - second):.1e} (tolerance {limit:.1e})"
    )
    return abs(first - second) <= limit


def vgg(task, inputs, course_epochs, row):
    """Rows of a task's VGG16, and whether the losses of both pipelines agree."""
    images, targets, train, rest = inputs
    epochs, n = settings(task)[3], len(images)
    measured = min(course_epochs or epochs, epochs)
    model, _ = build(task, "VGG16")
    forward = architecture.multiply_adds(model)
    history, once, head, floor = run_ours(task, model, *inputs, epochs)
    memory = peak_memory()
    other = build(task, "VGG16")[0]
    course, laps = run_course(task, other, *inputs, measured)
    began = time.perf_counter()  # once more, because the machine may have been slower the first time
    features.view_features(chains.feature_model(other, "flatten"), images, 0, SEED)
    again = time.perf_counter() - began
    floor, once = floor + min(again - once, 0), min(again, once)
    note = f"measured {measured} of {epochs} epochs" if measured < epochs else "all epochs measured"
    rows = [
        row(
            task,
            "VGG16",
            "course",
            epochs,
            extrapolated(laps, epochs),
            n,
            peak_memory(),
            forward * epochs,
            note,
        ),
        row(task, "VGG16", "ours", epochs, once + head, n, memory, forward, f"features {once:.1f} s"),
        row(task, "VGG16", "floor", epochs, floor, n, np.nan, forward, ""),
    ]
    losses = (("loss", "training loss"), ("val_loss", "validation loss"))
    agree = [
        compare(
            f"{task}, {name} after epoch {measured}", course[key][measured - 1], history[key][measured - 1]
        )
        for key, name in losses
    ]
    return rows, all(agree)


def mobilenet(inputs, epochs, row):
    """Rows of MobileNet's fine-tuning."""
    images, targets, train, _ = inputs
    total = settings("Task 2")[3]
    work = 3 * architecture.multiply_adds(build("Task 2", "MobileNet")[0])  # forward, and backward twice
    note = f"measured {epochs} of {total} epochs, no validation"
    return [
        row(
            "Task 2",
            "MobileNet",
            name,
            total,
            extrapolated(laps, total),
            len(train),
            peak_memory(),
            work * total,
            note,
        )
        for name, laps in mobilenet_laps(images, targets, train, epochs).items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--course-epochs", type=int, help="measure fewer of the course's, and extrapolate")
    parser.add_argument("--mobilenet-epochs", type=int, default=4, help="measured of 100 (default 4)")
    parser.add_argument("--csv", type=Path, help="put the rows into this file, in place of this machine's")
    options = parser.parse_args()
    if min(options.mobilenet_epochs, options.course_epochs or 2) < 2:
        parser.error("measure at least 2 epochs: the first one also compiles")
    load = f"; load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{device()}: {backend.describe_machine()}{load}")
    source = data.find_source(os.environ.get("XRAY_DATA"))
    print(source.banner())
    n = 4096 if backend.has_gpu() else 2048
    fastest = {dtype: peak(dtype, n) for dtype in ("float32", "bfloat16")}
    print("Peak of matrix products, billion multiply-adds/s:", {k: round(v) for k, v in fastest.items()})

    def row(task, model, pipeline, epochs, seconds, n_images, memory, work, note):
        """One line of the table; `work`: multiply-adds an image over all epochs."""
        return {
            "task": task,
            "kind": "GPU" if backend.has_gpu() else "CPU",
            "device": f"{device()}, {keras.backend.backend()}",
            "model": model,
            "pipeline": pipeline,
            "epochs": epochs,
            "seconds": round(seconds, 1),
            "images/s": round(epochs * n_images / seconds, 1),
            "share of float32 peak": round(work * n_images / seconds / 1e9 / fastest["float32"], 3),
            "peak memory (GiB)": round(memory, 2),
            "note": note,
        }

    rows, agree = [], True
    for task, folder in (("Task 1", "two"), ("Task 2", "all")):
        image_set = data.load_images(source, folder, "train", 224, data.default_cache())
        train, rest = data.validation_split(image_set, 0.2, SEED)
        targets = image_set.labels.astype("float32")[:, None] if task == "Task 1" else image_set.one_hot()
        inputs = image_set.images, targets, train, rest
        own, same = vgg(task, inputs, options.course_epochs, row)
        rows, agree = rows + own, agree and same
    rows += mobilenet(inputs, options.mobilenet_epochs, row)
    table = pd.DataFrame(rows)
    print(f"\n{table.drop(columns=['kind', 'device']).to_string(index=False)}")
    for task in ("Task 1", "Task 2"):
        seconds = table[(table["task"] == task) & (table["model"] == "VGG16")].set_index("pipeline")[
            "seconds"
        ]
        print(
            f"{task}: {seconds['course'] / seconds['ours']:.1f} times the course's speed, "
            f"{seconds['ours'] / seconds['floor']:.2f} times the floor"
        )
    print("The losses agree." if agree else "The losses DIFFER: the pipelines did not train the same model.")
    if options.csv and not source.is_phantom:
        others = pd.read_csv(options.csv, keep_default_na=False) if options.csv.is_file() else table.iloc[:0]
        others = others[others["device"] != rows[0]["device"]]
        pd.concat([others, table]).to_csv(options.csv, index=False)
    elif options.csv:
        print("Nothing was written: these are phantoms, not the tasks' images.")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
