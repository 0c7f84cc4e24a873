"""A problem that a test can train on within a second, and settings that suit it."""

import numpy as np

from utils.losses import BinaryFocalLoss

SETTINGS = {"loss": BinaryFocalLoss(from_logits=True), "learning_rate": 1e-3, "epochs": 4, "batch_size": 10}
SETTINGS["seed"] = 3


def two_classes():
    """Two separable classes: views [2, 48, 32], the second a little shifted, and targets [48, 1]."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0.0, 1.0], 24)[rng.permutation(48)].astype("float32")[:, None]
    plain = rng.normal(size=(48, 32)) + 2 * (2 * targets - 1)
    return np.stack([plain, plain + rng.normal(0, 0.1, plain.shape)]).astype("float32"), targets
