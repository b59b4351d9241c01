"""Tensors become ours by rules, and the original's again, bit for bit."""

import numpy as np
import pytest

from config.errors import UserError
from engine.conversion.rules import Rule, converted, original, transposed
from engine.weights.stored import StoredTensor, narrow, stored, widen

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype("f4")


RULES = {
    "same": ([Rule("a", ("x",))], {"x": (3, 5)}),
    "transposed": ([Rule("a", ("x",), True)], {"x": (3, 5)}),
    "a convolution of one pixel": ([Rule("a", ("x",), True)], {"x": (3, 5, 1)}),
    "joined": ([Rule("a", ("x", "y"))], {"x": (3,), "y": (3,)}),
    "joined and transposed": ([Rule("a", ("x", "y"), True)], {"x": (3, 5), "y": (3, 5)}),
    "cut": ([Rule("a", ("x",), True, (0, 2)), Rule("b", ("x",), True, (2, 5))], {"x": (3, 5)}),
}


@pytest.mark.parametrize("name", RULES)
def test_there_and_back(tmp_path, name):
    rules, shapes = RULES[name]
    arrays = {key: numbers(*shape) for key, shape in shapes.items()}
    tensors = {key: stored(array) for key, array in arrays.items()}
    ours = {rule.ours: converted(rule, tensors, tmp_path) for rule in rules}
    for rule in rules:
        assert ours[rule.ours].load().shape == ours[rule.ours].shape
        parts = [arrays[key].reshape(arrays[key].shape[:2]) for key in rule.theirs]
        if rule.columns:
            parts = [part[:, rule.columns[0] : rule.columns[1]] for part in parts]
        expected = np.concatenate(parts)
        np.testing.assert_array_equal(ours[rule.ours].load(), expected.T if rule.transposed else expected)
    for key, array in arrays.items():
        own = [rule for rule in rules if key in rule.theirs]
        back = original(key, own, ours, array.shape)
        assert back.shape == array.shape and back.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (64, 512), (65, 513), (700, 3), (3, 700)])
def test_tiles_make_the_transpose(shape):
    array = numbers(*shape)
    found = transposed(array)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array.T)


def test_numbers_that_are_not_finite_are_named(tmp_path):
    for bad in (np.nan, np.inf, -np.inf):
        tensor = stored(np.array([1, bad, 2], "f4"))
        with pytest.raises(UserError, match="tensor x has values that are not finite"):
            converted(Rule("a", ("x",)), {"x": tensor}, tmp_path).load()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_sixteen_bits_become_float32_and_narrow_again(kind):
    bits = np.arange(2**16, dtype=np.uint32).astype("<u2")
    half = bits.view("<f2") if kind == "float16" else bits
    wide = widen(half, kind)
    numbers_alone = ~np.isnan(wide)
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(narrow(wide[numbers_alone], kind), half[numbers_alone])
    with pytest.raises(ValueError, match="cannot hold"):
        narrow(np.array([1 + 2**-20], "f4"), kind)


def test_a_stored_tensor_reads_what_it_loads():
    assert StoredTensor((2,), "bfloat16", lambda: np.array([0x3F80, 0xC000], "<u2")).read().tolist() == [
        1,
        -2,
    ]
