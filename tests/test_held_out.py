"""Held-out images are scored as they are, by a network that is not in training."""

import keras
import numpy as np

from utils.features import apply
from utils.losses import BinaryFocalLoss
from utils.models import build_binary_head
from utils.studies import cross_validate


def test_applied_network_neither_drops_units_nor_normalises_by_the_batch():
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).normal(3, 2, (6, 16)).astype("float32")
    layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((16,)), *layers])
    norm, dense = layers[1:]
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in (dense.kernel, dense.bias))
    expected = inputs / np.sqrt(1 + norm.epsilon) @ kernel + bias  # moving statistics start at 0 and 1
    np.testing.assert_allclose(apply(model, inputs, 4), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.moving_mean), np.zeros(16))


def test_cross_validation_scores_the_images_and_not_their_augmented_views():
    """The second view is blank: who scores on it does not do better than chance."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0.0, 1.0], 20)[rng.permutation(40)].astype("float32")[:, None]
    plain = rng.normal(size=(40, 16)) + 2 * (2 * targets - 1)
    views = np.stack([plain, np.zeros_like(plain)]).astype("float32")
    folds = [(np.arange(20, 40), np.arange(20)), (np.arange(20), np.arange(20, 40))]
    settings = {"loss": BinaryFocalLoss(from_logits=True), "learning_rate": 1e-2, "epochs": 4, "seed": 3}
    p, fits = cross_validate(
        lambda: build_binary_head(16, seed=1), views, targets, folds, batch_size=10, **settings
    )
    assert min(fit.history["val_accuracy"][-1] for fit in fits) > 0.9
    assert ((p > 0.5) == targets).mean() > 0.9
