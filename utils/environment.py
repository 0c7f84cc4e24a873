"""Keras and the machine: a quiet start, seeds, devices, gradients and memory."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator

# Notes of TensorFlow's runtime would otherwise stand between a notebook's results.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Without these, one notebook takes all of a GPU's memory and leaves none for a second.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

REMEDY = (
    "Remedy: choose tensorflow or jax (by KERAS_BACKEND or in ~/.keras/keras.json), "
    "install keras>=3.10, and restart the kernel."
)


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Silence stderr, including what compiled code writes to its file descriptor."""
    with open(os.devnull, "w") as null, os.fdopen(os.dup(2), "w") as original:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original.fileno(), 2)


try:
    with silenced_stderr():
        import keras
except (ImportError, ValueError) as error:  # ValueError: a mistake in keras.json
    raise RuntimeError(f"Keras cannot be imported: {error}. {REMEDY}") from error

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    raise RuntimeError(f"Keras runs on {BACKEND}, which is not supported. {REMEDY}")

# Whatever keras.json says: the networks expect these.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
logging.getLogger("tensorflow").setLevel(logging.ERROR)


def prepare_keras(seed: int) -> None:
    """Seed Python, NumPy and the backend, and make the backend repeatable.

    A first, tiny model is trained in silence, because cuDNN and XLA print notes
    when they are used for the first time.
    """
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(1))
    with silenced_stderr():
        model = keras.Sequential(layers)
        model.compile(loss="mse")
        model.train_on_batch(keras.ops.zeros((1, 8, 8, 1)), keras.ops.zeros((1, 1)))
    keras.utils.set_random_seed(seed)
    if BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()


def has_gpu() -> bool:
    """Whether the backend sees a GPU."""
    devices = keras.distribution.list_devices()
    return any("gpu" in device.lower() for device in devices)


def describe_machine() -> str:
    """Python, Keras, its backend, the GPU and the CPU cores, in one line."""
    python = sys.version.split()[0]
    backend = f"{BACKEND} {sys.modules[BACKEND].__version__}"
    cores = f"{os.cpu_count()} CPU cores"
    return f"Python {python}, Keras {keras.__version__} on {backend}, {_gpu()}, {cores}"


def _gpu() -> str:
    if not has_gpu():
        return "no GPU"
    if BACKEND == "jax":
        return jax.devices()[0].device_kind
    device = tf.config.list_physical_devices("GPU")[0]
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", "GPU")


def choose_profile(requested: str, is_phantom: bool) -> str:
    """The profile to run: "full" or "quick"; by default "quick" on phantoms only."""
    if requested in ("full", "quick"):
        return requested
    if requested:
        raise ValueError(f"PROFILE must be full, quick or empty, not {requested!r}")
    if is_phantom:
        return "quick"
    return "full"


def gradient(function: Callable, x):
    """Differentiate a function (float tensor -> scalar tensor) at `x`.

    Returns
    -------
    tensor
        Of the shape and dtype of `x`.
    """
    if BACKEND == "jax":
        return jax.grad(function)(x)
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    # Zeros, as in JAX, where TensorFlow would return None.
    return tape.gradient(value, x, unconnected_gradients="zero")


def free_memory(variables: Iterable) -> None:
    """Empty variables that are no longer needed.

    TensorFlow keeps the variables of every compiled fit, Adam's moments included,
    until the process ends: about 85 MB for each fit of a VGG16 head.
    """
    if BACKEND != "tensorflow":
        return
    for variable in variables:
        empty = tf.zeros((0,), variable.dtype)
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=empty)
