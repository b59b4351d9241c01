"""oneDNN's products equal those in double precision, of float32 and of bfloat16, in every layout."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from models.kernels import onednn, onednn_products
from models.kernels.onednn_products import PackedMatrix, fits, from_bfloat16, multiply, to_bfloat16
from tests.closeness import SINGLE, assert_close

ROOT = Path(__file__).resolve().parents[3]
LOAD = onednn.library.__wrapped__  # not what an earlier call found
BFLOAT16_UNIT = 2.0**-8  # half of the distance of bfloat16's neighbours: a significand has eight bits
needs_onednn = pytest.mark.skipif(onednn.library() is None, reason="this build of Paddle brings no oneDNN")
needs_bytes = pytest.mark.skipif(not onednn.has_byte_products(), reason="no instructions for bytes here")
needs_bfloat16 = pytest.mark.skipif(not onednn.has_bfloat16(), reason="no instructions for bfloat16 here")
KINDS = [np.float32, pytest.param(np.uint16, marks=needs_bfloat16)]
SHAPES = [
    (1, 1, 1),
    (1, 40, 1),
    (5, 1, 9),
    (64, 70, 3),
    (2, 300, 130),
    (129, 33, 17),
    (65, 7, 1),
    (200, 64, 64),
]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def as_kind(x: np.ndarray, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as float32 or bfloat16, and the same numbers in double precision."""
    if kind is np.float32:
        return x, x.astype(np.float64)
    rounded = (x.view(np.uint32) + 0x7FFF + (x.view(np.uint32) >> 16 & 1) >> 16).astype(np.uint16)
    return rounded, from_bfloat16(rounded).astype(np.float64)


@needs_onednn
def test_a_signal_waits_until_a_product_has_ended(monkeypatch):
    seen, execute = [], onednn.library().dnnl_primitive_execute
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))

    def interrupted(*arguments):
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert signal.SIGUSR1 in signal.sigpending() and not seen
        return execute(*arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(onednn.library(), "dnnl_primitive_execute", interrupted)
            multiply(random(3, 4), random(4, 5))
        assert seen == [signal.SIGUSR1]
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), "no signal is held any more"
    finally:
        signal.signal(signal.SIGUSR1, before)


@needs_bytes
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_bytes_are_exact_and_are_added_to_a_share(shape):
    rows, depth, columns = shape
    sides = np.random.default_rng(depth).integers(-128, 128, (rows + columns, 3, depth)).astype(np.int8)
    sides[::3] = -128  # no sum saturates
    a, b = sides[:rows, 1], sides[rows:, 1].T  # rows that are not beside each other
    exact = a.astype(np.int64) @ b
    found = multiply(a, b)
    np.testing.assert_array_equal(found, exact.astype(np.float32))
    assert multiply(a, b, found, add=1 / 256) is found
    np.testing.assert_allclose(found, exact * (1 + 1 / 256), rtol=2.0**-22)


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products_are_those_of_double_precision(kind, shape, transposed):
    rows, depth, columns = shape
    a, exact_a = as_kind(random(rows, depth), kind)
    b, exact_b = as_kind(random(depth, columns), kind)
    expected, size = exact_a @ exact_b, np.abs(exact_a) @ np.abs(exact_b)
    a, b = (np.asfortranarray(x) if turn else x for x, turn in zip((a, b), transposed, strict=True))
    assert_close(multiply(a, b), expected, depth, size)
    room = np.full((rows + 2, columns + 4), 7, np.float32)  # a part of a larger array, and nothing else
    out = room[1 : rows + 1, 2 : columns + 2]
    assert multiply(a, b, out, add=True) is out
    assert_close(out, expected + 7, depth + 1, size + 7)
    room[1 : rows + 1, 2 : columns + 2] = 7
    assert (room == 7).all()


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_packed_matrix_multiplies_any_number_of_rows(kind, shape, turned):
    _, depth, columns = shape
    matrix = np.asfortranarray(random(depth, columns)) if turned else random(depth, columns)
    packed = PackedMatrix(matrix, bfloat16=kind is np.uint16)
    _, exact = as_kind(np.ascontiguousarray(matrix), kind)
    for rows in (1, 2, 63, 64, 65, 200, 1):
        x, exact_x = as_kind(random(rows, depth), kind)
        expected, size = exact_x @ exact, np.abs(exact_x) @ np.abs(exact)
        for given in (x, random(rows, depth)):  # rounded by the test, and by the product
            assert_close(packed.multiply(given), expected, depth, size)
        out = np.ones((rows, columns), np.float32)
        assert_close(packed.multiply(x, out, add=True), expected + 1, depth + 1, size + 1)


@needs_onednn
def test_batches_of_any_number_of_rows_share_their_code():
    weight = random(24, 40)

    def compiled() -> int:
        for rows in (*range(129, 400, 7), *range(1024, 1030)):
            x, d_mapped = random(rows, 24), random(rows, 40)
            mapped = multiply(x, weight)
            multiply(x, weight, mapped, add=True)
            multiply(d_mapped, weight.T)
            multiply(x.T, d_mapped)
        return len(onednn_products._of_thread.known)

    numbers = {"of whole steps": 5 + 1, "that are left": 63}  # 128 to 384, 1024
    with ThreadPoolExecutor(1) as fresh:
        count = fresh.submit(compiled).result()
    # Only rows that are added to others cannot be computed twice.
    assert count <= 4 * numbers["of whole steps"] + 4 + numbers["that are left"]


@needs_bfloat16
def test_float32_is_rounded_to_the_nearest_bfloat16():
    x = np.concatenate([random(5000), [0, -0.0, 1, 1.00390625, 3e38, -1e-37, np.inf, -np.inf]])
    x = x.astype(np.float32)
    found = from_bfloat16(to_bfloat16(x[:, None]))[:, 0]
    expected, _ = as_kind(x, np.uint16)
    np.testing.assert_array_equal(found, from_bfloat16(expected))
    finite = np.isfinite(x)
    assert (np.abs(found[finite] - x[finite]) <= BFLOAT16_UNIT * np.abs(x[finite])).all()
    assert np.isnan(from_bfloat16(to_bfloat16(np.full((3, 3), np.nan, np.float32)))).all()


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_come_out_as_ieee_754_demands(kind):
    a = np.ones((5, 3), np.float32)
    a[0, 1], a[1, 1], a[2] = np.nan, np.inf, (np.inf, -np.inf, 1)
    b = np.ones((3, 2), np.float32)
    b[1, 1] = 0  # infinity times 0 is not a number
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b
    bits_of = {np.float32: lambda x: x, np.uint16: lambda x: (x.view(np.uint32) >> 16).astype(np.uint16)}
    a, b = bits_of[kind](a), bits_of[kind](b)
    np.testing.assert_array_equal(multiply(a, b), expected)
    np.testing.assert_array_equal(PackedMatrix(b).multiply(a), expected)


@needs_onednn
def test_subnormal_factors_are_read_as_they_are():
    tiny = np.full((4, 5), 1e-40, np.float32)
    expected = tiny.astype(np.float64) @ np.full((5, 6), 2.0**30)
    found = multiply(tiny, np.full((5, 6), 2**30, np.float32))
    assert_close(found, expected, 5)
    assert_close(PackedMatrix(np.full((5, 6), 2**30, np.float32)).multiply(tiny), expected, 5)


@needs_bfloat16
def test_the_instructions_for_bfloat16_read_a_subnormal_factor_as_zero():
    tiny = np.full((4, 5), 0x10, np.uint16)  # 1.5e-39
    large = to_bfloat16(np.full((5, 6), 2.0**100, np.float32))
    assert (multiply(tiny, large) == 0).all()
    assert (PackedMatrix(large).multiply(tiny) == 0).all()


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_the_same_in_every_run_and_on_every_thread(kind):
    a, b = as_kind(random(150, 130), kind)[0], as_kind(random(130, 70), kind)[0]
    packed = PackedMatrix(b)
    first, room = packed.multiply(a), np.empty(a.size + 64, a.dtype)
    for offset in (0, 1, 3, 17):
        moved = room[offset : offset + a.size].reshape(a.shape)
        moved[:] = a
        np.testing.assert_array_equal(packed.multiply(moved), first)
        np.testing.assert_array_equal(multiply(moved, b), multiply(a, b))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: packed.multiply(a), range(40)):
            np.testing.assert_array_equal(found, first)


@needs_onednn
def test_onednn_starts_no_thread():
    """Its products run on threads of ours; OpenMP's would wait for one another on the same cores."""
    script = """
import os, numpy
from models.kernels.onednn_products import PackedMatrix, multiply
before = len(os.listdir("/proc/self/task"))
x = numpy.ones((1024, 1024), numpy.float32)
multiply(x, x), PackedMatrix(x).multiply(x)
print(len(os.listdir("/proc/self/task")) - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split()[-1] == "0"


def test_what_onednn_cannot_read_is_told():
    x = random(4, 6)
    here = onednn.library() is not None
    for readable in (x, x.T, x[:, 2:5], x.view(np.uint32).astype(np.uint16)):
        assert fits(readable) == here
    for other in (x.astype(np.float64), x[:, ::2], x[::-1], x[:0]):
        assert not fits(x, other)


def test_a_build_of_paddle_without_onednn_has_no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(onednn, "_libraries", lambda: tmp_path)
    assert LOAD() is None


def test_half_a_unit_of_bfloat16_is_that_of_eight_bits():
    assert from_bfloat16(np.array([0x3F81], np.uint16))[0] == 1 + 2 * BFLOAT16_UNIT > 1 + SINGLE


def test_threads_that_start_at_once_share_one_engine(monkeypatch):
    for name in ("_engine", "_stream"):  # those of the process go with primitives that are kept
        monkeypatch.setattr(onednn, name, functools.cache(getattr(onednn, name).__wrapped__))
    made, create = [], onednn.call

    def slow(function: str, *arguments: object) -> None:
        if function == "dnnl_engine_create":
            made.append(function)
            time.sleep(0.05)  # long enough for the other threads to ask
        create(function, *arguments)

    monkeypatch.setattr(onednn, "call", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: (onednn.engine().value, onednn.stream().value), range(4)))
    assert len(set(found)) == 1
    assert len(made) == 1
