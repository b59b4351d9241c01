"""Loads the weights of a CNN, and freezes the CNN for some epochs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from paddle import nn

from config.errors import UserError, some
from engine.weights.published_cnn import locate_weights, read_published_cnn
from engine.weights.state_dicts import without_prefix
from engine.weights.tensor_files import read_safetensors
from engine.weights.tensors import assign_arrays, layer_tensors
from models.cnn import Cnn, cnn_of

HEADS = ("fc.", "classifier.")  # the classifiers that `Cnn` leaves out


def start_cnn(model: nn.Layer, weights: str, freeze_epochs: int) -> Callable[[int], None]:
    """Load the file `weights`, if not empty, into the CNN of `model`; return a function that freezes the CNN.

    Call this function with each 0-based epoch before training it. `freeze_epochs` is the number of epochs in
    which the CNN is frozen, -1 for all. A model without a CNN is left alone.
    """
    cnn = cnn_of(model)
    if cnn is None:
        return lambda epoch: None
    if weights:
        load_cnn(weights, cnn)
    if freeze_epochs < 0:
        for parameter in cnn.parameters():
            parameter.stop_gradient = True  # so that the optimizer allocates no moments for it

    def freeze(epoch: int) -> None:
        cnn.frozen = freeze_epochs < 0 or epoch < freeze_epochs

    return freeze


def load_cnn(weights: str | Path, cnn: Cnn) -> None:
    """Load weights into `cnn`; those of a classifier and a prefix of all names are ignored.

    `weights` is a file of `tools/convert_weights.py`, a state dict of torch (.pth, .pt), or `package:NAME`.
    Raises UserError that names a tensor which is missing, unexpected, misshapen or not finite.
    """
    path = locate_weights(str(weights))
    if path.suffix in (".pth", ".pt"):
        arrays = read_published_cnn(path)
    else:
        arrays = read_safetensors(path, remedy="; write it with tools/convert_weights.py")
    own = {name.partition(".")[0] for name in layer_tensors(cnn.network)}
    arrays, _ = without_prefix(arrays, (*own, "fc", "classifier"))
    assign_arrays(cnn.network, fitting_arrays(path, cnn, arrays))


def fitting_arrays(path: Path, cnn: Cnn, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the float32 tensors of `cnn` from `arrays`, the content of `path`; raise as `load_cnn` does."""
    tensors = layer_tensors(cnn.network)
    missing = sorted(tensors.keys() - arrays.keys())
    if missing:
        raise UserError(
            f"{path}: no tensor {missing[0]}; {len(missing)} of the network's have no weights there: it "
            f"holds {some(arrays, 3)}"
        )
    unexpected = sorted(name for name in arrays.keys() - tensors.keys() if not name.startswith(HEADS))
    if unexpected:
        raise UserError(
            f"{path}: unexpected tensor {unexpected[0]}: is it of another network than MODEL.CNN?"
        )
    for name, tensor in tensors.items():
        array = arrays[name]
        if list(array.shape) != list(tensor.shape):
            raise UserError(
                f"{path}: tensor {name} is {list(array.shape)}, the network expects {list(tensor.shape)}"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"{path}: tensor {name} has values that are not finite numbers")
    return {name: np.asarray(arrays[name], dtype=np.float32, order="C") for name in tensors}
