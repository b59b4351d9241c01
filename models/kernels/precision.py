"""Whether layers multiply in bfloat16 on the CPU: weights and inputs rounded, everything else in float32.

Layers ask `is_lowered`, once for a forward pass and its gradient. Similarities, ranks, losses and optimizers
never ask, and stay in float32.
"""

import contextlib
from collections.abc import Iterator

from config.errors import UserError
from models.kernels import onednn
from models.kernels.choice import BFLOAT16, FLOAT32, LAYERS, quickest

AUTO = "auto"
POSSIBLE = "where possible"  # bfloat16 wherever there are instructions for it, however slow they are

_of_inference = FLOAT32
_of_block: str | None = None


def set_precision(name: str) -> str:
    """Set how layers multiply where no gradient is asked for; return float32 or bfloat16.

    `name` is one of these, or auto: bfloat16 where its products are quicker than those of float32. Raises
    UserError for bfloat16 where the processor has no instructions for it.
    """
    global _of_inference
    _of_inference = resolve(name, "RUNTIME.PRECISION")
    return _of_inference


def resolve(name: str, key: str) -> str:
    """Return float32 or bfloat16 for the value `name` of `key`, maybe AUTO or POSSIBLE; raise as above."""
    if name == BFLOAT16:
        check_bfloat16(key)
    if name not in (AUTO, POSSIBLE):
        return name
    here = BFLOAT16 if onednn.has_bfloat16() else FLOAT32
    return here if name == POSSIBLE or here == FLOAT32 else quickest(LAYERS)


def check_bfloat16(key: str) -> None:
    """Raise UserError, which names `key`, where the CPU has no instructions for bfloat16."""
    if not onednn.has_bfloat16():
        reason = "this processor has no instructions for it (avx512_bf16 or amx_bf16)"
        if onednn.library() is None:
            reason = "this build of Paddle brings no oneDNN, which multiplies it"
        raise UserError(f"{key}: expected a CPU that multiplies bfloat16, but {reason}; leave the key out")


def of_inference() -> str:
    """Return how layers multiply where no gradient is asked for: float32 or bfloat16."""
    return _of_inference if _of_block is None else _of_block


@contextlib.contextmanager
def computing_in(name: str) -> Iterator[None]:
    """Let layers multiply in float32 or bfloat16 in a `with` block, with gradients and without."""
    global _of_block
    before, _of_block = _of_block, name
    try:
        yield
    finally:
        _of_block = before


def is_lowered() -> bool:
    """Tell whether a layer that computes now multiplies in bfloat16."""
    import paddle  # here, since extraction does without Paddle

    if _of_block is not None:
        return _of_block == BFLOAT16
    return _of_inference == BFLOAT16 and not paddle.is_grad_enabled()
