"""Time Task 1 in the course's pipeline and in ours: same images, model, batches, settings, one run.

course  the template's way: in every epoch every image passes the frozen VGG16 and the head (`model.fit`)
ours    every image passes the frozen VGG16 once; the head is fitted on these features (the notebook's way)

Neither augments. Both see the same batches in the same order, so that their losses must agree.
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
from tqdm import tqdm
from tqdm.keras import TqdmCallback

from utils import backend, chains, data, features, models, training
from utils.losses import BinaryFocalLoss

SEED, BATCH_SIZE, LEARNING_RATE = 542, 10, 5e-4
LOSS = {"alpha": 0.25, "gamma": 2.0, "from_logits": True}
# Both pipelines do the same sums in another order, and rounding grows over the steps of a fit.
ABSOLUTE, RELATIVE = 1e-4, 0.02  # tolerance of a loss: ABSOLUTE + RELATIVE * loss


def processor():
    """The model name of the CPU, without the name of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def build():
    """The report's model, anew from the same seed, and where its weights came from."""
    backend.set_seeds(SEED)
    return models.build_vgg16_binary(seed=SEED, **weight_options(os.environ.get("XRAY_WEIGHTS")))


def run_course(model, images, targets, train, rest, epochs):
    """Fit the whole model on images; returns its history and the seconds of each epoch.

    As `fit_classifier` does, the fit goes through the logits. Compilation is Keras' choice: on a CPU no
    XLA, which was measured to be slower for convolutions.
    """
    whole = chains.logits_model(model)
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
    whole.compile(keras.optimizers.Adam(LEARNING_RATE), BinaryFocalLoss(**LOSS), metrics=[accuracy])
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
    return fitted.history, [end - begin for begin, end in zip(stamps, stamps[1:], strict=False)]


def run_ours(model, images, targets, train, rest, epochs):
    """Features of all images once, then the head; returns the history, and the seconds of each part."""
    base, head = chains.split_at(model, "flatten")
    began = time.perf_counter()
    views = features.view_features(base, images, 0, SEED)
    seconds = time.perf_counter() - began
    began, held_out = time.perf_counter(), (views[0, rest], targets[rest])
    settings = BinaryFocalLoss(**LOSS), LEARNING_RATE, epochs, BATCH_SIZE, SEED
    fit = training.fit_classifier(head, views[:, train], targets[train], held_out, *settings)
    return fit.history, (seconds, time.perf_counter() - began)


def row(pipeline, epochs, seconds, cpu, n_images, history, epoch):
    """One line of the table; losses are those after `epoch` epochs."""
    return {
        "pipeline": pipeline,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu, 1),  # of all cores; other work on the machine hardly changes it
        "images/s": round(epochs * n_images / seconds, 1),
        "training loss": history["loss"][epoch - 1],
        "validation loss": history["val_loss"][epoch - 1],
        "peak memory (GiB)": round(peak_memory(), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of the fit (default 40)")
    parser.add_argument("--course-epochs", type=int, help="measure fewer of the course's, and extrapolate")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    epochs, measured = options.epochs, options.course_epochs or options.epochs
    if not 1 <= measured <= epochs:
        parser.error(f"--course-epochs must lie between 1 and {epochs}, not be {measured}")

    load = f"; load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"Machine: {processor()}, {backend.describe_machine()}{load}")
    source = data.find_source(os.environ.get("XRAY_DATA"))
    print(source.banner())
    image_set = data.load_images(source, "two", "train", 224, data.default_cache())
    train, rest = data.validation_split(image_set, 0.2, SEED)
    inputs = image_set.images, image_set.labels.astype("float32")[:, None], train, rest
    model, report = build()
    print("Weights:", report)
    print(f"{len(train)} training and {len(rest)} validation images, batches of {BATCH_SIZE}", flush=True)
    # Ours first: the peak of memory is the process's so far, and the course's pipeline needs more.
    began = time.process_time()
    history, (base, head) = run_ours(model, *inputs, epochs)
    own_cpu = time.process_time() - began
    rows = [row("ours", epochs, base + head, own_cpu, len(image_set), history, measured)]
    model, began = build()[0], time.process_time()
    course, laps = run_course(model, *inputs, measured)
    later = laps[1:] or laps  # the first epoch also compiles
    seconds = sum(laps) + (epochs - measured) * sum(later) / len(later)
    cpu = (time.process_time() - began) * seconds / sum(laps)
    rows.insert(0, row("course", epochs, seconds, cpu, len(image_set), course, measured))
    table = pd.DataFrame(rows).assign(processor=processor(), images=source.title or source.kind)
    print(f"\n{table.iloc[:, :8].to_string(index=False, float_format='{:.6g}'.format)}")
    if measured < epochs:
        print(f"The course's time is extrapolated (measured {measured} of {epochs} epochs).")
    print(f"Losses: after epoch {measured}. Ours: {base:.1f} s for the features, {head:.1f} s for the head.")
    print(f"Ratio: {seconds / (base + head):.1f}; in CPU seconds {cpu / own_cpu:.1f}")
    agree = True
    for name in ("training loss", "validation loss"):
        theirs, own = rows[0][name], rows[1][name]
        limit = ABSOLUTE + RELATIVE * theirs
        agree &= abs(theirs - own) <= limit
        print(f"Difference of the {name}: {abs(theirs - own):.2e} (tolerance {limit:.2e})")
    print("The losses agree." if agree else "The losses DIFFER: the pipelines did not train the same model.")
    if options.csv:
        table.assign(measured_epochs=[measured, epochs]).to_csv(options.csv, index=False)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
