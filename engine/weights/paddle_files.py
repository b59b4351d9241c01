"""Reads files of paddle.save without Paddle: arrays by name."""

from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.kinds import refusal
from engine.weights.plain_pickle import FAILURES, PlainUnpickler, reason_of, with_arrays
from engine.weights.stored import stored

NAMES_KEY = "StructuredToParameterName@@"  # this entry holds Paddle's own names for the arrays


def open_paddle_file(path: Path) -> dict[str, object]:
    """Return the content of `path` (.pdparams), with each array as a `StoredTensor`.

    Paddle stores bfloat16 as uint16, a type that no weights have. Raises UserError for a file that cannot be
    read, is damaged, or holds anything but plain things and arrays.
    """
    try:
        with open(path, "rb") as file:
            content = with_arrays(PlainUnpickler(file, {}).load())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, expected arrays by name")
        return _tensors_of(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FAILURES as error:
        otherwise = f"not a file of arrays from Paddle: {reason_of(error)}"
        raise UserError(refusal(path, otherwise)) from error


def _tensors_of(content: dict) -> dict[str, object]:
    """Return nested dicts with stored tensors; an array may come in a pair with Paddle's own name for it."""
    found: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
            value = value[1]
        if isinstance(value, np.ndarray):
            found[name] = stored(value, "bfloat16" if value.dtype == np.uint16 else "")
        elif name != NAMES_KEY:
            found[name] = _tensors_of(value) if isinstance(value, dict) else value
    return found
