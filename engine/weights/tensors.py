"""Reads the tensors of a layer by name, checks arrays against them, and assigns arrays to them."""

from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError

if TYPE_CHECKING:
    import paddle


def layer_tensors(layer: "paddle.nn.Layer") -> "dict[str, paddle.Tensor]":
    """Return parameters and persistent buffers by structured name, each once.

    `state_dict` alone would list a GRU's weights twice, and `named_buffers` alone includes buffers that are
    not saved.
    """
    persistent = layer.state_dict()
    buffers = {name: buffer for name, buffer in layer.named_buffers() if name in persistent}
    return dict(layer.named_parameters()) | buffers


def layer_arrays(layer: "paddle.nn.Layer") -> dict[str, np.ndarray]:
    """Return copies of parameters and buffers by structured name."""
    return {name: tensor.numpy() for name, tensor in layer_tensors(layer).items()}


def check_arrays(
    layer: "paddle.nn.Layer", arrays: dict[str, np.ndarray], source: str, absent: tuple[str, ...] = ()
) -> None:
    """Raise UserError unless `arrays` have the names, shapes and types of the layer's tensors.

    `source` is where the arrays come from, such as a file. Tensors whose names begin with one of `absent` are
    not among the arrays.
    """
    tensors = {name: tensor for name, tensor in layer_tensors(layer).items() if not name.startswith(absent)}
    missing = sorted(tensors.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - tensors.keys())
    if missing or unexpected:
        parts = [
            f"lacks {_some(missing)}" if missing else "",
            f"has unexpected {_some(unexpected)}" if unexpected else "",
        ]
        raise UserError(
            f"{source}: not a checkpoint of the configured model: it {' and '.join(filter(None, parts))}; "
            f"evaluate it with the config.yaml of its own run"
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != arrays[name].shape:
            raise UserError(
                f"{source}: tensor {name} has shape {list(arrays[name].shape)}, the configured model expects "
                f"{list(tensor.shape)}; check MODEL.*, INPUT.IMG_FEATURE_DIM and the vocabulary"
            )
        if arrays[name].dtype != tensor.numpy().dtype:
            raise UserError(
                f"{source}: tensor {name} is {arrays[name].dtype}, expected {tensor.numpy().dtype}"
            )


def assign_arrays(layer: "paddle.nn.Layer", arrays: dict[str, np.ndarray]) -> None:
    """Write checked `arrays` into the parameters and buffers of `layer` that have their names."""
    tensors = layer_tensors(layer)
    for name, array in arrays.items():
        tensors[name].set_value(array)


def _some(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
