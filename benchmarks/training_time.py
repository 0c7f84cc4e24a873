"""Time the training of both tasks: the course's pipeline, ours, and the floor. Same images, weights, batches.

course     every epoch every image passes the frozen VGG16 and the head (`model.fit`), as in the template
ours       every image passes the frozen VGG16 once; the head is fitted on these features (the notebooks' way)
floor      one forward pass of each image, and the memory traffic of the head's steps, at the speed of a copy
bare loop  MobileNet: `train_on_batch` on arrays in memory, nothing else

Nothing is augmented, and all pipelines of a model see the same batches in the same order, so that the losses
must agree. The table is printed; with --csv it also replaces this machine's rows in that file.
"""

import argparse
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import data, features, models, session, training, validation, weights
from utils.losses import BinaryFocalLoss

keras = session.keras
SEED, BATCH_SIZE = 542, 10
PASSES = 8  # over a head's weights in a step: Adam reads weights, gradient and two moments and writes three
# Both pipelines do the same sums in another order, and rounding grows over the steps of a fit.
ABSOLUTE, RELATIVE = 1e-4, 0.02  # tolerance of a loss: ABSOLUTE + RELATIVE * loss
SETTINGS = {  # folder, loss, learning rate, epochs
    "Task 1": ("two", BinaryFocalLoss(0.25, 2.0, from_logits=True), 5e-4, 40),
    "Task 2": ("all", keras.losses.CategoricalCrossentropy(from_logits=True), 1e-4, 100),
}


def device():
    """The GPU's name, else the processor's, without the name of the machine."""
    if session.has_gpu():
        return session.describe_machine().split(", ")[-2]
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""  # Linux alone has it
    names = [line.split(":", 1)[1] for line in text.split("\n") if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0].strip()}, {os.cpu_count()} cores"


def best(action, repeats=6):
    """Seconds of an action, the least of some: what else a machine does only ever adds to a time."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def peak_memory():
    """Peak resident memory of this process in GiB, or NaN where the system does not tell (Windows)."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return float("nan")
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024 ** (3 if sys.platform == "darwin" else 2)


def bandwidth():
    """Bytes a second that a copy reads and writes, on all cores or on the GPU."""
    source = np.ones((os.cpu_count(), 2**25), "float32")
    if session.has_gpu():
        there = keras.ops.convert_to_tensor(source)
        return 2 * source.nbytes / best(lambda: keras.ops.convert_to_numpy((there + 1)[0, :1]))
    target = np.empty_like(source)
    with ThreadPoolExecutor(len(source)) as pool:
        return 2 * source.nbytes / best(lambda: [*pool.map(np.copyto, target, source)])


def matrix_peak(n=2048):
    """Multiply-adds a second of square float32 matrix products."""
    a = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(n, n)).astype("float32"))
    return n**3 / best(lambda: keras.ops.convert_to_numpy(keras.ops.matmul(a, a)[:1, :1]))


def build(task, backbone):
    """The report's model, anew from the same seed."""
    options = {"seed": SEED, **weights.weight_options(os.environ.get("XRAY_WEIGHTS"))}
    one = models.build_vgg16_binary if task == "Task 1" else models.build_multiclass
    return one(backbone, **options)[0]


def compiled(task, model, optimizer=keras.optimizers.Adam):
    """A model without its last activation, compiled as Keras decides."""
    whole = models.logits_model(model)
    whole.compile(optimizer(SETTINGS[task][2]), SETTINGS[task][1])
    return whole


def fit_whole(whole, images, targets, rows, rest, epochs, after=lambda: None):
    """Fit a model on images: history, and seconds of each epoch. `after` is called between epochs."""
    laps = []

    def begin(*_):
        laps.append(-time.perf_counter())

    def end(*_):
        laps[-1] += time.perf_counter()
        after()

    batches = features.ViewBatches(images[rows][None], targets[rows], BATCH_SIZE, SEED)
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}  # ViewBatches shuffles
    options["callbacks"] = [keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)]
    held_out = (images[rest], targets[rest]) if len(rest) else None
    return whole.fit(batches, validation_data=held_out, **options).history, laps


def extrapolated(laps, epochs):
    """Seconds of all epochs: the first, which also compiles, and the fastest of the others for the rest."""
    return sum(laps) if len(laps) >= epochs else laps[0] + (epochs - 1) * min(laps[1:])


def vgg(task, images, targets, rows, rest, epochs, measured, speed):
    """A task's VGG16: (pipeline, seconds, passes of the base, memory, note); and losses that must agree."""
    model, steps = build(task, "VGG16"), epochs * -(-len(rows) // BATCH_SIZE)
    base = models.feature_model(model, "flatten")
    base.predict_on_batch(images[:16])  # compiles
    kept = []
    once = best(lambda: kept.append(features.frozen_features(base, images)), 2)
    views = kept.pop()[None]
    one = models.build_binary_head if task == "Task 1" else models.build_multiclass_head
    head = partial(one, views.shape[-1], seed=SEED)
    settings = dict(zip(("loss", "learning_rate", "epochs"), (*SETTINGS[task][1:3], epochs), strict=True))
    held_out, settings = (views[0, rest], targets[rest]), settings | {"batch_size": BATCH_SIZE, "seed": SEED}
    began = time.perf_counter()
    ours = training.fit_classifier(head, views[:, rows], targets[rows], views[0, :0], held_out, **settings)
    seconds, memory = time.perf_counter() - began, peak_memory()
    traffic = PASSES * 4 * head().count_params() * steps
    course, laps = fit_whole(compiled(task, model), images, targets, rows, rest, measured)
    step = f"features {once:.1f} s, then {seconds / steps * 1e3:.1f} ms a step"
    note = f"measured {measured} of {epochs} epochs"
    table = [
        ("course", extrapolated(laps, epochs), epochs, peak_memory(), note),
        ("ours", once + seconds, 1, memory, step),
        ("floor", once + traffic / speed, 1, np.nan, f"a copy moves {speed / 1e9:.0f} GB/s"),
    ]
    return table, [(course[name][-1], ours.history[name][measured - 1]) for name in ("loss", "val_loss")]


def mobilenet(images, targets, rows, epochs, measured):
    """MobileNet's fine-tuning, an epoch of the bare loop after each of ours, in the same minutes."""
    new = partial(compiled, "Task 2", optimizer=training.FusedAdam)
    bare, laps = new(build("Task 2", "MobileNet")), []
    batches = features.ViewBatches(images[rows][None], targets[rows], BATCH_SIZE, SEED)
    resident = [batches[k] for k in range(len(batches))]
    loop = partial(best, lambda: [bare.train_on_batch(*batch) for batch in resident], 1)
    whole = new(build("Task 2", "MobileNet"))
    _, own = fit_whole(whole, images, targets, rows, rows[:0], measured, lambda: laps.append(loop()))
    rest = 3 * epochs, peak_memory(), f"measured {measured} of {epochs} epochs, no validation"
    return [(name, extrapolated(each, epochs), *rest) for name, each in (("ours", own), ("bare loop", laps))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3, help="of the course's pipeline, and of MobileNet")
    parser.add_argument("--csv", type=Path, help="put the rows into this file, in place of this machine's")
    parser.add_argument("--short", action="store_true", help="2 epochs of few images, to see that it works")
    options = parser.parse_args()
    session.prepare_keras(SEED)
    source = data.find_source(os.environ.get("XRAY_DATA"))
    print(f"{device()}; {session.describe_machine()}", source.banner(), sep="\n")
    peak, speed, measured = matrix_peak(), bandwidth(), 2 if options.short else max(options.epochs, 2)
    rows, agree = [], True

    def add(task, model, table, epochs, n):
        work = models.multiply_adds(build(task, model)) * n / peak
        for pipeline, seconds, passes, memory, note in table:
            own = {"task": task, "kind": "GPU" if session.has_gpu() else "CPU"}
            own |= {"device": f"{device()}, {session.BACKEND}", "model": model, "pipeline": pipeline}
            own |= {
                "epochs": epochs,
                "seconds": round(seconds, 1),
                "images/s": round(epochs * n / seconds, 1),
            }
            own |= {"share of float32 peak": round(work * passes / seconds, 3)}
            rows.append(own | {"peak memory (GiB)": round(memory, 2), "note": note})

    for task, (folder, *_, epochs) in SETTINGS.items():
        image_set = data.load_images(source, folder, "train")
        if options.short:
            image_set, epochs = image_set.subset(np.arange(len(image_set.labels))[::8]), 2
        train, rest = validation.validation_split(image_set, 0.2, SEED)
        targets = image_set.labels.astype("float32")[:, None] if task == "Task 1" else image_set.one_hot()
        table, losses = vgg(task, image_set.images, targets, train, rest, epochs, measured, speed)
        add(task, "VGG16", table, epochs, len(targets))
        course, ours, floor = (row[1] for row in table)
        print(f"{task}: {course / ours:.1f} times the course's speed, {ours / floor:.2f} times the floor")
        print("Losses of the course's pipeline and of ours, training and validation:", losses)
        agree &= all(abs(a - b) <= ABSOLUTE + RELATIVE * abs(a) for a, b in losses)
    table = mobilenet(image_set.images, targets, train, epochs, measured)
    add("Task 2", "MobileNet", table, epochs, len(train))
    table = pd.DataFrame(rows)
    print(f"\n{table.drop(columns=['kind', 'device']).to_string(index=False)}")
    print("The losses agree." if agree else "The losses DIFFER: the pipelines did not train the same model.")
    if options.csv and not (source.is_phantom or options.short):
        others = pd.read_csv(options.csv, keep_default_na=False) if options.csv.is_file() else table.iloc[:0]
        pd.concat([others[others["device"] != table["device"][0]], table]).to_csv(options.csv, index=False)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
