"""Helpers of the two notebooks: data, models, losses, training, evaluation and figures."""
