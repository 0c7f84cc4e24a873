"""TensorFlow's fused kernels for two operations that Keras composes of about ten.

They change rounding only. On other backends, and wherever a kernel does not apply,
Keras' own code runs.
"""

import keras
from keras import ops

from .environment import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam; a training step of a VGG16 head takes about half the time."""

    def update_step(self, gradient, variable, learning_rate):
        if BACKEND != "tensorflow" or self.amsgrad:
            return super().update_step(gradient, variable, learning_rate)
        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable(package="xray")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer; MobileNet's epoch takes about two thirds of the time."""

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable) or not self._kernel_applies(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        fused = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's variance divides by n - 1, Keras' by n.
        n = ops.cast(ops.size(inputs[..., 0]), "float32")
        variance = fused.batch_variance * (n - 1) / n
        self._move(self.moving_mean, fused.batch_mean)
        self._move(self.moving_variance, variance)
        return fused.y

    def _kernel_applies(self, inputs, mask) -> bool:
        channels_last = len(inputs.shape) == 4 and self.axis in (-1, 3)
        affine = self.scale and self.center
        return BACKEND == "tensorflow" and channels_last and affine and mask is None

    def _move(self, average, batch_value) -> None:
        average.assign(average * self.momentum + batch_value * (1 - self.momentum))


def with_fused_normalization(
    base: keras.Model, momentum: float | None = None
) -> keras.Model:
    """A copy of a network, weights included, with `FusedBatchNormalization` layers.

    Without `momentum` they keep the momentum of the base's layers.
    """

    def copy_layer(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            if momentum is not None:
                config["momentum"] = momentum
            return FusedBatchNormalization.from_config(config)
        return type(layer).from_config(config)

    copy = keras.models.clone_model(base, clone_function=copy_layer)
    copy.set_weights(base.get_weights())
    return copy
