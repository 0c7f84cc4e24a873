"""Keras' settings and seeds, the machine, the profile, and what a notebook shows. Imports nothing of ours.
XRAY_DATA, XRAY_EXTERNAL, XRAY_WEIGHTS, XRAY_CACHE name folders; XRAY_PROFILE is full or quick; XRAY_FRESH=1
reuses no kept fit; XRAY_REGRESS=1 stops a full run on real images with complete weights that differs."""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display


@contextlib.contextmanager
def quiet_startup():
    """Silence stderr's file descriptor: TensorFlow's runtime writes there before any log level is heeded."""
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(2), "w") as kept:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its import resets the level


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # notes of its runtime would stand in a notebook
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it leaves a second notebook no memory
try:
    with quiet_startup():
        import keras

        version, BACKEND = keras.__version__, keras.backend.backend()
        if BACKEND not in ("tensorflow", "jax") or [*map(int, version.split(".")[:2])] < [3, 10]:
            raise ImportError(f"this is version {version} on {BACKEND}")
        tf, jax = map(sys.modules.get, ("tensorflow", "jax"))  # Keras has imported the one that it uses
except (ImportError, ValueError, AssertionError) as error:  # also of a missing backend, a bad keras.json
    remedy = "use tensorflow or jax (KERAS_BACKEND, ~/.keras/keras.json) with keras>=3.10, and start again."
    why = str(error) or "keras.json has a value that it does not know, perhaps as floatx"
    raise RuntimeError(f"Keras cannot be used: {why}. Remedy: {remedy}") from error
keras.config.set_image_data_format("channels_last")  # here, for joblib's workers need it, whatever keras.json
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")


def prepare_keras(seed):
    """Seed Python, NumPy and the backend, and train a first model, at which its runtime prints notes."""
    with quiet_startup():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(loss="mse", jit_compile=False)
        model.train_on_batch(keras.ops.zeros((1, 1)), keras.ops.zeros((1, 1)))
    keras.utils.set_random_seed(seed)
    # A CPU repeats bit for bit. On a GPU this turns XLA off, too; depthwise gradients then need cuDNN 7.6.3.
    if BACKEND == "tensorflow" and has_gpu():
        tf.config.experimental.enable_op_determinism()


def has_gpu():
    """Whether the backend sees a GPU."""
    return any("gpu" in device.lower() for device in keras.distribution.list_devices())


def describe_machine():
    """One line: Python, Keras, its backend, the GPU and the cores."""
    gpu = jax.devices()[0].device_kind if has_gpu() and BACKEND == "jax" else "no GPU"
    for first in tf.config.list_physical_devices("GPU")[:1] if BACKEND == "tensorflow" else ():
        gpu = tf.config.experimental.get_device_details(first).get("device_name", "GPU")
    backend = f"{BACKEND} {sys.modules[BACKEND].__version__}, {gpu}, {os.cpu_count()} CPU cores"
    return f"Python {sys.version.split()[0]}, Keras {keras.__version__} on {backend}"


def gradient(function, x):
    """The gradient of a function (float tensor -> scalar tensor) at x: a tensor of x's shape and dtype."""
    if BACKEND == "jax":
        return jax.grad(function)(x)
    with tf.GradientTape() as tape:
        tape.watch(x := tf.convert_to_tensor(x))
        value = function(x)
    return tape.gradient(value, x, unconnected_gradients="zero")  # as JAX does, instead of None


def release(variables):
    """Empty variables: TensorFlow keeps each compiled fit's, Adam's among them, until the process ends."""
    for variable in variables if BACKEND == "tensorflow" else ():
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=tf.zeros((0,), variable.dtype))


def user_path(text):
    """A path that a user gave, with `~` expanded."""
    return Path(os.path.expanduser(text))


def choose_profile(requested, is_phantom):
    """The profile to run, "full" or "quick"; without a request "quick" on phantoms, "full" on real images."""
    if requested and requested not in ("full", "quick"):
        raise ValueError(f"XRAY_PROFILE must be full or quick, not {requested!r}")
    return requested or ("quick" if is_phantom else "full")


class Clock:
    """The wall time of a run, by section: a call with a name gives it the seconds since the last call."""

    def __init__(self):
        self.laps, self.began = {}, time.perf_counter()

    def __call__(self, name):
        self.laps[name] = self.laps.get(name, 0) + 60 * self.minutes() - sum(self.laps.values())

    def minutes(self):
        return (time.perf_counter() - self.began) / 60

    def table(self):
        laps = self.laps | {"all so far": 60 * self.minutes()}
        return pd.DataFrame({"seconds": pd.Series(laps).round(1)})


def show(frame, title="", failed=(), reference=False):
    """Display a table under its source's title, if any; a reference run may stop where something `failed`."""
    pd.set_option("display.max_colwidth", None)  # nothing is cut off
    display(*[Markdown(f"**{title.strip()}**")] if title else (), frame)
    if failed and reference and os.environ.get("XRAY_REGRESS") == "1":
        raise AssertionError("\n".join(["This reference run differs from the committed one:", *failed]))


def show_claims(claims, reference, title=""):
    """Show whether each of the text's claims (dict, claim -> bool) holds in this run."""
    if failed := [claim for claim, holds in claims.items() if not holds]:
        display(Markdown("**Not every claim holds in this run: the text speaks of the committed one.**"))
    held = ["no" if claim in failed else "yes" for claim in claims]
    show(pd.DataFrame({"claim": [*claims], "holds in this run": held}), title, failed, reference)


def check_ranges(measured, ranges, reference):
    """Show scores (dict, name -> value) beside a rerun's ranges (dict, name -> (low, high, basis))."""
    rows = {name: (measured[name], *r, bool(r[0] <= measured[name] <= r[1])) for name, r in ranges.items()}
    failed = [f"{name}: {row}" for name, row in rows.items() if not row[-1]]
    columns = ["value", "low", "high", "basis", "inside"]
    show(pd.DataFrame(rows.values(), [*rows], columns), "", failed, reference)
