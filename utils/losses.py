"""The focal loss of Lin et al. (2017) for a sigmoid output and binary labels."""

import keras
from keras import ops


def binary_focal_loss(y_true, y_pred, alpha: float = 0.25, gamma: float = 2.0):
    """Focal loss of every element: FL = alpha_t (1 - p_t)^gamma CE, with CE = -log p_t.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.

    Parameters
    ----------
    y_true : array or tensor
        Labels 0 and 1, of the shape of `y_pred` or without its last axis of one.
    y_pred : array or tensor
        Probabilities of label 1.
    alpha : float
        Weight of label 1; label 0 has the weight `1 - alpha`.
    gamma : float
        How strongly images that are already classified well are down-weighted;
        0 gives the weighted cross-entropy.

    Returns
    -------
    tensor
        Losses in nats, of the shape of `y_pred`.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = ops.cast(y_true, y_pred.dtype)
    # Otherwise labels [n] and predictions [n, 1] would broadcast to [n, n].
    y_true = ops.reshape(y_true, ops.shape(y_pred))
    cross_entropy = ops.binary_crossentropy(y_true, y_pred)
    p_t = ops.exp(-cross_entropy)
    # At p_t = 1 the gradient of a power below 1 would not be a finite number.
    modulating = ops.power(ops.maximum(1.0 - p_t, keras.config.epsilon()), gamma)
    alpha_t = y_true * alpha + (1.0 - y_true) * (1.0 - alpha)
    return alpha_t * modulating * cross_entropy


@keras.saving.register_keras_serializable(package="xray")
class BinaryFocalLoss(keras.losses.Loss):
    """`binary_focal_loss` as a Keras loss. (Keras' own ignores `alpha` by default.)

    Raises
    ------
    ValueError
        If `alpha` is outside [0, 1] or `gamma` is negative.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        name: str = "binary_focal_loss",
        **kwargs,
    ):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
        if not gamma >= 0:
            raise ValueError(f"gamma must not be negative, not {gamma}")
        super().__init__(name=name, **kwargs)
        self.alpha = alpha
        self.gamma = gamma

    def call(self, y_true, y_pred):
        loss = binary_focal_loss(y_true, y_pred, self.alpha, self.gamma)
        return ops.mean(loss, axis=-1)

    def get_config(self) -> dict:
        config = super().get_config()
        return config | {"alpha": self.alpha, "gamma": self.gamma}
