"""Cutting and joining models: the parts give what the whole gives, and to train one is to train all."""

import keras
import numpy as np
import pytest

from utils.chains import count_parameters, feature_model, logits_model, split_at


@pytest.fixture(params=[1, 4], ids=["sigmoid", "softmax"])
def model(request):
    """A chain of dense layers that ends in one probability or in four."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    x = keras.layers.Dense(5, activation="relu", name="second")(x)
    activation = "sigmoid" if request.param == 1 else "softmax"
    return keras.Model(inputs, keras.layers.Dense(request.param, activation=activation, name="last")(x))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(7, 6)).astype("float32")


def activate(model, logits):
    return model.layers[-1].activation(keras.ops.convert_to_tensor(logits))


def test_parts_in_a_row_give_what_the_whole_gives(model, x):
    base, head = split_at(model, "first")
    assert base.output_shape == (None, 8) and head.input_shape == (None, 8)
    np.testing.assert_allclose(head(base(x)), model(x), rtol=1e-6)


def test_parts_share_the_layers(model):
    base, head = split_at(model, "first")
    assert [layer.name for layer in head.layers[1:]] == ["second", "last"]
    assert base.layers[1] is model.get_layer("first") and head.layers[-1] is model.get_layer("last")
    assert base.count_params() + head.count_params() == model.count_params()


@pytest.mark.parametrize("name", ["absent", "last", ""])
def test_cut_where_there_is_no_inner_layer_names_those_that_there_are(name, model):
    with pytest.raises(ValueError, match=f"no inner layer '{name}'.*first, second, last"):
        split_at(model, name)


def test_feature_model_ends_in_the_named_layer(model, x):
    features = feature_model(model, "second")(x)
    first, second = model.get_layer("first"), model.get_layer("second")
    assert np.array_equal(features, second(first(x))) and features.shape == (7, 5)
    with pytest.raises(ValueError, match="absent"):
        feature_model(model, "absent")


def test_activated_logits_are_the_probabilities(model, x):
    logits = logits_model(model)(x)
    np.testing.assert_allclose(activate(model, logits), model(x), atol=1e-6)
    assert not np.allclose(logits, model(x), atol=0.1)


def test_logits_go_beyond_what_float32_probabilities_can_tell(model, x):
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1e4)
    assert np.abs(logits_model(model)(x)).max() > 100


def test_training_the_logits_trains_the_model(model, x):
    chain = logits_model(model)
    assert count_parameters(chain) == count_parameters(model)
    before, probabilities = [np.array(w) for w in model.weights], np.array(model(x))
    chain.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
    chain.train_on_batch(x, np.full((7, model.output_shape[-1]), 3.0, "float32"))
    assert all(not np.array_equal(b, w) for b, w in zip(before, model.weights, strict=True))
    assert not np.allclose(probabilities, model(x))
    np.testing.assert_allclose(activate(model, chain(x)), model(x), atol=1e-6)


def test_frozen_layers_count_as_not_trainable(model):
    total = count_parameters(model)["total"]
    assert count_parameters(model) == {"total": total, "trainable": total, "non-trainable": 0}
    model.get_layer("first").trainable = False
    assert count_parameters(model) == {"total": total, "trainable": total - 56, "non-trainable": 56}
    assert total == model.count_params()
