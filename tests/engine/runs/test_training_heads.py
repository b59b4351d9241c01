"""Heads that only training needs may be in a checkpoint or in the model that starts from it alone."""

import numpy as np
import paddle
import pytest
from paddle import nn

from config.errors import UserError
from engine.runs.checkpoint import load_model, save_checkpoint, start_from
from engine.weights.tensors import layer_arrays


class Model(nn.Layer):
    """A model with a head that guesses words, or with one that writes captions, or with neither."""

    def __init__(self, *heads: str, wide: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.classifier = nn.Linear(3, 2)
        for head in heads:
            self.add_sublayer(head, nn.Linear(wide, 3))


def write(folder, model: nn.Layer, **state) -> None:
    facts = {"model": "oscar", "progress": {"step": 1}} | state
    save_checkpoint(folder, layer_arrays(model), {}, facts, "")


@pytest.mark.parametrize("head", ["words", "captioner"])
def test_a_head_starts_afresh_or_is_left_out_and_that_is_said(tmp_path, head):
    plain, headed = Model(), Model(head)
    write(tmp_path / "plain", plain)
    write(tmp_path / "headed", headed)
    model = Model(head)
    before = layer_arrays(model)[f"{head}.weight"]
    line = start_from(tmp_path / "plain", model, "oscar")
    assert line == f"weights: {tmp_path / 'plain'}; new: {head}"
    np.testing.assert_array_equal(layer_arrays(model)[f"{head}.weight"], before)
    np.testing.assert_array_equal(model.body.weight.numpy(), plain.body.weight.numpy())
    model = Model()
    assert start_from(tmp_path / "headed", model, "oscar").endswith(f"; left out: {head}")
    np.testing.assert_array_equal(model.body.weight.numpy(), headed.body.weight.numpy())
    model = Model(head)
    assert start_from(tmp_path / "headed", model, "oscar") == f"weights: {tmp_path / 'headed'}"
    np.testing.assert_array_equal(
        layer_arrays(model)[f"{head}.weight"], layer_arrays(headed)[f"{head}.weight"]
    )


def test_evaluation_stays_strict_and_so_do_other_layers(tmp_path):
    write(tmp_path / "plain", Model())
    with pytest.raises(UserError, match="lacks words.bias, words.weight"):
        load_model(tmp_path / "plain", Model("words"), "oscar")
    with pytest.raises(UserError, match="lacks other.bias, other.weight"):
        start_from(tmp_path / "plain", Model("other"), "oscar")
    write(tmp_path / "headed", Model("words"))
    with pytest.raises(UserError, match=r"words.weight has shape \[3, 3\]"):
        start_from(tmp_path / "headed", Model("words", wide=4), "oscar")


def test_layers_that_a_converted_checkpoint_lacks_keep_their_initial_weights(tmp_path):
    source = Model()
    arrays = {name: array for name, array in layer_arrays(source).items() if "classifier" not in name}
    facts = {"model": "oscar", "progress": {"step": 0}, "untrained": ["classifier."]}
    save_checkpoint(tmp_path / "run" / "best", arrays, {}, facts, "")
    paddle.seed(5)
    model = Model()
    before = model.classifier.weight.numpy()
    load_model(tmp_path / "run", model, "oscar")  # a run's folder stands for its best checkpoint
    np.testing.assert_array_equal(model.classifier.weight.numpy(), before)
    np.testing.assert_array_equal(model.body.weight.numpy(), source.body.weight.numpy())
    assert start_from(tmp_path / "run", model, "oscar").endswith("; new: classifier")
