"""The decoder of all steps at once against one step of Paddle's after another."""

from itertools import pairwise

import numpy as np
import paddle
import pytest
from paddle import nn

from models.kernels.precision import computing_in
from models.layers.additive_attention import additive_attention
from models.layers.attentive_decoder import attentive_states
from tests.closeness import assert_close, largest

WORD, HIDDEN, REGIONS, STARTS = 5, 7, 4, [0, 9, 18, 25, 27]  # steps of 9, 9, 7 and 2 captions
# There and back through four steps: gates of 12 terms and 7, a query of 7, attention over 4, tanh of three.
ROUNDINGS = 2 * 4 * (12 + 7 + 7 + 8 + 40)


def arguments(seed=0):
    paddle.seed(seed)
    cell = nn.GRUCell(WORD + HIDDEN, HIDDEN)
    shapes = [[27, WORD], [9, HIDDEN], [9, REGIONS, HIDDEN], [9, REGIONS, HIDDEN], [HIDDEN, HIDDEN], [HIDDEN]]
    words, first, values, keys, query_weight, key_weight = map(paddle.randn, shapes)
    tensors = [words, first, values, keys, query_weight, key_weight]
    for tensor in tensors:
        tensor.stop_gradient = False
    mask = paddle.zeros([9, REGIONS])
    mask[0, 2:] = -1e4
    keep = (paddle.rand([27, WORD + HIDDEN]) > 0.3).astype("float32") / 0.7
    return cell, tensors, mask, keep


def at_once(cell, tensors, mask, keep):
    words, first, values, keys, *weights = tensors
    return attentive_states(cell, words, first, (values, keys, mask), weights, STARTS, keep)


def step_by_step(cell, tensors, mask, keep):
    words, state, values, keys, query_weight, key_weight = tensors
    states = []
    for start, end in pairwise(STARTS):
        count = end - start
        state = state[:count]
        context = additive_attention(
            state @ query_weight, keys[:count], values[:count], key_weight, mask[:count]
        )
        read = paddle.concat([words[start:end], context], axis=1)
        state = cell(read if keep is None else read * keep[start:end], state)[0]
        states.append(state)
    return paddle.concat(states)


def found_by(decode, dropped):
    cell, tensors, mask, keep = arguments()
    states = decode(cell, tensors, mask, keep if dropped else None)
    (states * paddle.arange(1, HIDDEN + 1, dtype="float32")).sum().backward()
    gradients = [tensor.grad.numpy() for tensor in (*tensors, *cell.parameters())]
    return states.numpy(), gradients


@pytest.mark.parametrize("dropped", [False, True], ids=["whole", "with dropout"])
def test_states_and_gradients_are_those_of_one_step_after_another(way, dropped):
    (states, gradients), (expected, right) = (found_by(decode, dropped) for decode in (at_once, step_by_step))
    assert_close(states, expected, ROUNDINGS)
    for ours, theirs in zip(gradients, right, strict=True):
        assert_close(ours, theirs, ROUNDINGS + 27, largest(right))


def test_without_a_gradient_it_keeps_no_steps_and_returns_the_same(way):
    cell, tensors, mask, keep = arguments()
    with paddle.no_grad():
        found = at_once(cell, tensors, mask, keep)
    np.testing.assert_array_equal(found.numpy(), at_once(cell, tensors, mask, keep).numpy())


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_is_near_float32_in_states_and_gradients():
    full = found_by(at_once, True)
    with computing_in("bfloat16"):
        lowered = found_by(at_once, True)
    difference = np.abs(lowered[0] - full[0]).max()
    assert 0 < difference < 2.0**-9 * 4 * 12  # four steps whose gates add up twelve rounded terms
    for ours, theirs in zip(lowered[1], full[1], strict=True):
        assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max() + 0.05
