"""Converts the folder of a BERT or an Oscar into vocab.txt, config.json and model.safetensors.

Folders of torch, Hugging Face and PaddleNLP have tensors of several names and layouts. The converted folder
has the names and layouts of pytorch-transformers and Oscar, such as
`bert.encoder.layer.0.output.dense.weight`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files import refuse_existing, writing
from engine.weights.bert_names import original_depth
from engine.weights.plain_pickle import read_paddle_file, read_torch_file
from engine.weights.tensor_files import read_safetensors, save_safetensors

CONFIG_FILE, VOCABULARY_FILE, MODEL_FILE = "config.json", "vocab.txt", "model.safetensors"
WORDS = "bert.embeddings.word_embeddings.weight"
# PaddleNLP's names of the modules in a layer, and the original's.
PADDLE_PARTS = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
}
# The heads of pre-training, which score no pairs, and the constant array of position ids.
LEFT_OUT = re.compile(r"cls\.|embeddings\.position_ids$")


def convert_folder(source: Path, output: Path, overwrite: bool) -> str:
    """Convert the folder `source` of torch, Hugging Face or PaddleNLP into `output`; return a line about it.

    Raises UserError if a file is missing, is damaged or does not fit the others; `output` is then as it was.
    """
    config = read_bert_config(source / CONFIG_FILE)
    vocabulary = _read_bytes(source / VOCABULARY_FILE)
    name, arrays = _read_arrays(source)
    arrays, left_out = _to_original(source / name, arrays)
    _check(source / name, arrays, config, vocabulary.rstrip(b"\n").count(b"\n") + 1)
    _write(output, arrays, config, vocabulary, overwrite)
    region_map = arrays.get("bert.img_embedding.weight")
    regions = "" if region_map is None else f", regions of {region_map.shape[1]} features"
    dropped = f"; left out: {', '.join(left_out)}" if left_out else ""
    words, dim = arrays[WORDS].shape
    return (
        f"{output}: {original_depth(arrays)} layers of {dim}, {words} words{regions}, "
        f"{len(arrays)} tensors{dropped}"
    )


def read_bert_config(path: Path) -> dict:
    """Return the content of a BERT's config.json; raise UserError if it is no readable JSON object."""
    try:
        config = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {cut(error, 80)}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object with BERT's sizes")
    return config


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): a BERT's folder has it") from error


READERS: dict[str, Callable[[Path], object]] = {
    MODEL_FILE: read_safetensors,
    "pytorch_model.bin": read_torch_file,
    "model_state.pdparams": read_paddle_file,
    "paddle_model.bin": read_paddle_file,  # VinVL-Paddle's
}


def _read_arrays(source: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the name of the weights file in `source`, and its arrays by name."""
    for name, reader in READERS.items():
        if not (source / name).is_file():
            continue
        arrays = reader(source / name)
        if not isinstance(arrays, dict) or not all(
            isinstance(array, np.ndarray) for array in arrays.values()
        ):
            raise UserError(f"{source / name}: expected a dict of tensors by name, as torch saves a model's")
        return name, arrays
    raise UserError(f"{source}: no file of weights: expected one of {', '.join(READERS)}")


def _to_original(path: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays under the original's names and in its layout, and the names that were left out."""
    left_out: set[str] = set()
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        plain = name.removeprefix("module.").removeprefix("bert.")
        if LEFT_OUT.search(plain):
            left_out.add("cls.*" if plain.startswith("cls.") else plain)
        else:
            found[_original_name(path, plain)] = array
    if _has_paddle_layout(found, arrays):
        found = {name: array.T if _is_linear(name, array) else array for name, array in found.items()}
    return found, sorted(left_out)


def _original_name(path: Path, name: str) -> str:
    name = name.replace("layer_norm.", "LayerNorm.")
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if parts := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, part, kind = parts.groups()
        if part not in PADDLE_PARTS:
            raise UserError(f"{path}: tensor {name} is no part of a BERT")
        name = f"encoder.layer.{number}.{PADDLE_PARTS[part]}.{kind}"
    return name if name.startswith("classifier.") else f"bert.{name}"


def _has_paddle_layout(found: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> bool:
    """Tell whether linear weights are [in, out], by the shape of a non-square one, else by the names."""
    widening = found.get("bert.encoder.layer.0.intermediate.dense.weight", np.empty((1, 1)))
    if widening.ndim == 2 and widening.shape[0] != widening.shape[1]:
        return widening.shape[0] == found.get(WORDS, np.empty((0, 0))).shape[1]
    return any(".self_attn." in name for name in arrays)


def _is_linear(name: str, array: np.ndarray) -> bool:
    return array.ndim == 2 and not name.startswith("bert.embeddings.")


def _check(path: Path, arrays: dict[str, np.ndarray], config: dict, words: int) -> None:
    """Raise UserError unless weights, configuration and vocabulary belong together."""
    if WORDS not in arrays:
        raise UserError(f"{path}: no tensor {WORDS.removeprefix('bert.')}: not the weights of a BERT")
    vocabulary = path.with_name(VOCABULARY_FILE)
    if words > len(arrays[WORDS]):
        raise UserError(
            f"{vocabulary}: {words} words, but the weights know {len(arrays[WORDS])}: take the vocabulary "
            f"that came with {path.name}"
        )
    depth, expected = original_depth(arrays), config.get("num_hidden_layers")
    if depth != expected:
        raise UserError(
            f"{path.with_name(CONFIG_FILE)}: num_hidden_layers is {expected}, but {path.name} has {depth} "
            "layers: take the config.json that came with it"
        )


def _write(
    output: Path, arrays: dict[str, np.ndarray], config: dict, vocabulary: bytes, overwrite: bool
) -> None:
    with writing(output) as draft:
        draft.mkdir()
        (draft / VOCABULARY_FILE).write_bytes(vocabulary)
        (draft / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        save_safetensors(draft / MODEL_FILE, arrays)
        refuse_existing(output, overwrite)
