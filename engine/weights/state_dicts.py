"""Finds the tensors by name in what a file holds: nested dicts, several models, the prefixes of wrappers."""

from pathlib import Path

from config.errors import UserError, some
from engine.weights.stored import StoredTensor

Tensors = dict[str, StoredTensor]

# The entries under which training code stores a model, the first one first.
_ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model",
    "teacher",
    "net",
    "network",
    "weights",
    "params",
    "module",
)


def state_dict_of(content: object, path: Path, depth: int = 3) -> Tensors:
    """Return the tensors by name of one model, as stored or nested in a dict; other entries are left out.

    Raises UserError if there are none, or if it is not clear which model's they are.
    """
    if is_state_dict(content):
        return {name: value for name, value in content.items() if isinstance(value, StoredTensor)}
    if isinstance(content, dict) and depth:
        inner = {name: value for name, value in content.items() if isinstance(value, dict | list)}
        for name in _ENTRIES:
            if isinstance(inner.get(name), dict) and _holds_tensors(inner[name]):
                return state_dict_of(inner[name], path, depth - 1)
        holding = [name for name, value in inner.items() if isinstance(value, dict) and _holds_tensors(value)]
        if len(holding) == 1:
            return state_dict_of(inner[holding[0]], path, depth - 1)
        if holding:
            raise UserError(f"{path}: tensors of several models, {some(holding)}: save one of them alone")
    raise UserError(f"{path}: expected a state dict, names to tensors, got {describe(content)}")


def is_state_dict(content: object) -> bool:
    """Tell whether `content` is a dict from texts to tensors, which may hold a few plain values besides."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return False
    return any(isinstance(value, StoredTensor) for value in content.values())


def _holds_tensors(content: dict, depth: int = 3) -> bool:
    return is_state_dict(content) or (
        depth > 0
        and any(isinstance(value, dict) and _holds_tensors(value, depth - 1) for value in content.values())
    )


def without_prefix(tensors: Tensors, known: tuple[str, ...] = ()) -> tuple[Tensors, str]:
    """Return the tensors without the prefixes that all of them share, and the prefix.

    `known` are the first parts of the model's own names, which are no prefixes. Of a teacher and a student
    the teacher is taken.
    """
    prefix = ""
    while tensors:
        firsts = {name.partition(".")[0] for name in tensors}
        if firsts & set(known) or not all("." in name for name in tensors):
            break
        if len(firsts) > 1:
            teachers = [first for first in firsts if "teacher" in first or "ema" in first.split("_")]
            if len(teachers) != 1:
                break
            firsts = {teachers[0]}
        (first,) = firsts
        tensors = {
            name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{first}.")
        }
        prefix += f"{first}."
    return tensors, prefix


def describe(content: object) -> str:
    """Return a few words on what a file holds."""
    if isinstance(content, dict):
        return f"a dict of {some(list(map(str, content)))}" if content else "an empty dict"
    if isinstance(content, list | tuple):
        return f"{len(content)} entries"
    return type(content).__name__
