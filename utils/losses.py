"""The focal loss of Lin et al. (2017), for a sigmoid output and binary labels. Imports nothing of ours."""

import keras
from keras import ops


def binary_focal_loss(y_true, y_pred, alpha=0.25, gamma=2.0, from_logits=False):
    """Focal loss of every element, FL = -alpha_t (1 - p_t)^gamma log(p_t), in nats.
    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5. `y_true` are 0 and 1, `y_pred`
    probabilities of label 1 or, if `from_logits`, logits of the same shape. `alpha` weighs label 1 and
    `1 - alpha` label 0; `gamma` = 0 gives the weighted cross-entropy. The result is of Keras' `floatx`."""
    # In Keras' own precision, as in its losses: 16 bits round 1 - epsilon, the highest probability, to 1.
    y_true, y_pred = (ops.cast(y, keras.config.floatx()) for y in (y_true, y_pred))
    if from_logits:
        # log(sigmoid) is finite for every logit, where the logarithm of a saturated sigmoid is not.
        signed = ops.where(y_true > 0.5, y_pred, -y_pred)
        log_p_t, log_one_minus_p_t = ops.log_sigmoid(signed), ops.log_sigmoid(-signed)
    else:
        epsilon = keras.config.epsilon()
        p = ops.clip(y_pred, epsilon, 1.0 - epsilon)
        p_t = ops.where(y_true > 0.5, p, 1.0 - p)
        log_p_t, log_one_minus_p_t = ops.log(p_t), ops.log(1.0 - p_t)
    alpha_t = y_true * alpha + (1.0 - y_true) * (1.0 - alpha)
    # Not by ops.power: its gradient is not a number where 1 - p_t is 0 and gamma is below 1.
    return -alpha_t * ops.exp(gamma * log_one_minus_p_t) * log_p_t


@keras.saving.register_keras_serializable(package="xray")
class BinaryFocalLoss(keras.losses.Loss):
    """`binary_focal_loss` as a Keras loss (Keras' own ignores `alpha` by default).
    ValueError if `alpha` is outside [0, 1] or `gamma` is negative."""

    def __init__(self, alpha=0.25, gamma=2.0, from_logits=False, name="binary_focal_loss", **kwargs):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
        if not gamma >= 0:
            raise ValueError(f"gamma must not be negative, not {gamma}")
        super().__init__(name=name, **kwargs)
        self.alpha, self.gamma, self.from_logits = alpha, gamma, from_logits

    def call(self, y_true, y_pred):
        loss = binary_focal_loss(y_true, y_pred, self.alpha, self.gamma, self.from_logits)
        return ops.mean(loss, axis=-1)

    def get_config(self):
        own = ("alpha", "gamma", "from_logits")
        return super().get_config() | {name: getattr(self, name) for name in own}
