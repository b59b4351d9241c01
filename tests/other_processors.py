"""What runs where this machine's processor would not let it: each path is switched by hand."""

import sys
from collections.abc import Callable

import pytest

from engine.ranking.coarse import Bfloat16Products, DigitProducts, Int16Products, SingleProducts
from models.kernels import choice
from models.kernels.mkl import library
from models.kernels.onednn import has_bfloat16, has_byte_products, has_wide_vectors
from models.kernels.row_blocks import uses_cpu_kernels
from tests.emulated_bfloat16 import emulate_bfloat16


def without_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no MKL, as in Paddle's builds for aarch64: NumPy multiplies."""
    _replace(monkeypatch, library, lambda: None)


def quickest_are(monkeypatch: pytest.MonkeyPatch, numbers: str) -> None:
    """Let products of these numbers be the quickest for a screen; skip the test where they are not here."""
    if numbers not in choice.numbers_of(choice.COARSE):
        pytest.skip(f"nothing here multiplies {numbers}")
    _replace(monkeypatch, choice.quickest, lambda purpose: numbers)


def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have no instructions for bfloat16, as when Paddle contains no oneDNN."""
    _replace(monkeypatch, has_byte_products, lambda: False)
    _replace(monkeypatch, has_bfloat16, lambda: False)


def without_wide_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have no AVX-512, as when Paddle contains no oneDNN."""
    _replace(monkeypatch, has_wide_vectors, lambda: False)


def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor multiply bfloat16: by its instructions, or by an emulation where it has none."""
    if "onednn" not in choice.available():
        pytest.skip("this build of Paddle brings no oneDNN")
    if not has_bfloat16():
        emulate_bfloat16(monkeypatch.setattr)


def off_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models take Paddle's own operations, as on a GPU."""
    _replace(monkeypatch, uses_cpu_kernels, lambda tensor: False)


def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let oneDNN multiply, as on processors where it is the fastest."""
    if "onednn" not in choice.available():
        pytest.skip("this build of Paddle brings no oneDNN")
    monkeypatch.setattr(choice, "_chosen", choice.Choice("onednn", "onednn", "set by a test"))


def products_of_each_kind() -> list:
    """Return the kinds of coarse products, as parameters of a test; it skips those that are not here."""
    kinds = {
        Bfloat16Products: has_bfloat16(),
        DigitProducts: has_byte_products(),
        Int16Products: library() is not None,
        SingleProducts: True,
    }
    return [
        pytest.param(
            kind(), id=kind.__name__, marks=pytest.mark.skipif(not there, reason="not on this machine")
        )
        for kind, there in kinds.items()
    ]


WAYS = {
    "as here": lambda monkeypatch: None,
    "by oneDNN": by_onednn,
    "without MKL": without_mkl,
    "off the CPU": off_the_cpu,
}


def _replace(monkeypatch: pytest.MonkeyPatch, function: Callable, other: Callable) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, function.__name__, None) is function and module.__name__ != __name__:
            monkeypatch.setattr(module, function.__name__, other)
