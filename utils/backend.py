"""Keras' backend: what it runs on, and its seeds. The only module that names a backend."""

import importlib.metadata
import os
import platform

import keras
import numpy as np


def has_gpu():
    """Whether the backend sees a GPU."""
    return any("gpu" in device.lower() for device in keras.distribution.list_devices())


def warm_up():
    """Compile a tiny model: before its first one, TensorFlow's XLA prints notes to stderr."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", jit_compile=True)
    model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))


def set_seeds(seed):
    """Seed Python, NumPy and the backend, and make runs repeatable on the same hardware.

    TensorFlow's deterministic operations are switched on for a GPU only: on a CPU the operations used here
    repeat bit for bit as they are (tested), and the switch would forbid XLA, which halves the time of a fit.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow" and has_gpu():
        from tensorflow.config import experimental

        experimental.enable_op_determinism()


def out_of_memory(error):
    """Whether an exception means that a device has no memory left; each backend has its own class for it."""
    return "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "ResourceExhaustedError"


def use_data_parallel():
    """Let every model that is built from now on train on all devices, each on its share of a batch.

    Keras' own `keras.distribution.DataParallel`: every device holds the whole model, and the gradients are
    averaged. Only Keras' JAX backend carries it out. Call it before a model is built.

    Returns
    -------
    int, the number of devices. `utils.features.ViewBatches` fills each batch to a multiple of it.

    Raises
    ------
    NotImplementedError
        On another backend.
    """
    if keras.backend.backend() != "jax":
        raise NotImplementedError(
            f"Keras distributes data on JAX, not on {keras.backend.backend()}. Remedy: KERAS_BACKEND=jax."
        )
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    return len(devices)


def data_parallel_size():
    """On how many devices a batch is spread: 1 without `use_data_parallel`."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.shape[0]


def gradient(function, x):
    """The gradient of a function at x: a tensor of the shape and dtype of x.

    `function` takes a float tensor such as `x` and returns a scalar one. NotImplementedError on a backend
    other than TensorFlow and JAX.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x, unconnected_gradients="zero")  # as JAX does, instead of None
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    raise NotImplementedError(f"gradient needs KERAS_BACKEND tensorflow or jax, not {backend}")


def release(variables):
    """Give back the memory of Keras variables that nobody will read again: they are empty afterwards.

    TensorFlow keeps the compiled graphs of every fit, and with them all variables, until the process ends;
    Adam's moments are twice the model. Other backends free what is no longer referenced.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for variable in variables:
            nothing = tf.zeros((0,), variable.dtype)
            tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=nothing)


def describe_machine():
    """One line: Python, Keras, its backend and the accelerator."""
    backend = keras.backend.backend()
    version = importlib.metadata.version(backend)
    return (
        f"Python {platform.python_version()}, Keras {keras.__version__} on {backend} {version}, "
        f"{accelerator(backend)}, {os.cpu_count()} CPU cores"
    )


def accelerator(backend):
    """The name of the first GPU that the backend sees, or "no GPU"."""
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return (
            tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "no GPU"
        )
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind if jax.default_backend() != "cpu" else "no GPU"
    return "no GPU"
