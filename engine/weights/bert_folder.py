"""Opens the folder of a BERT or an Oscar, of torch, Hugging Face, PaddleNLP or VinVL-Paddle.

Their tensors have several names and layouts. Here they get the names and layouts of pytorch-transformers and
Oscar, such as `bert.encoder.layer.0.output.dense.weight` [out,in].
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError, cut, some
from config.files.kinds import refusal
from config.files.whole import refuse_existing, writing
from engine.weights.bert_names import original_depth
from engine.weights.state_dicts import Tensors, state_dict_of, without_prefix
from engine.weights.stored import StoredTensor, turned
from engine.weights.tensor_files import save_safetensors
from engine.weights.weight_files import open_weights

CONFIG_FILE, VOCABULARY_FILE, MODEL_FILE = "config.json", "vocab.txt", "model.safetensors"
# The names of weights in such folders; the last one is VinVL-Paddle's.
WEIGHTS = (MODEL_FILE, "pytorch_model.bin", "model_state.pdparams", "paddle_model.bin")
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
_OWN = ("bert", "embeddings", "encoder", "pooler", "cls", "classifier", "img_embedding", "LayerNorm")


@dataclass(frozen=True)
class BertFolder:
    """The opened folder: the file of weights, its tensors in the original's names and layout, other files.

    `left_out` names what has no place in the model, `stored_names` are the names in the file by those here,
    and `of_paddle` says that linear maps are [in,out] in the file.
    """

    path: Path
    tensors: Tensors
    config: dict
    vocabulary: bytes
    left_out: list[str]
    stored_names: dict[str, str]
    of_paddle: bool


def open_bert_folder(source: Path, vocabulary: Path | None = None) -> BertFolder:
    """Open the folder `source`; `vocabulary` is another vocab.txt than the one in it.

    Raises UserError if a file is missing, is damaged or does not fit the others.
    """
    config = read_bert_config(source / CONFIG_FILE)
    words = _read_bytes(vocabulary or source / VOCABULARY_FILE)
    path = next((source / name for name in WEIGHTS if (source / name).is_file()), None)
    if path is None:
        others = sorted(each.name for each in source.glob("pytorch_model*"))
        advice = f"; if {some(others)} holds them, rename it to pytorch_model.bin" if others else ""
        raise UserError(f"{source}: no file of weights: expected one of {', '.join(WEIGHTS)}{advice}")
    tensors = state_dict_of(open_weights(path), path)
    folder = _to_original(path, tensors, config, words)
    _check(folder, vocabulary or source / VOCABULARY_FILE)
    return folder


def convert_folder(source: Path, output: Path, overwrite: bool) -> str:
    """Write the folder `source` as vocab.txt, config.json and model.safetensors; return a line about it.

    Raises UserError as `open_bert_folder` does; `output` is then as it was.
    """
    folder = open_bert_folder(source)
    _write(output, folder, overwrite)
    region_map = folder.tensors.get("bert.img_embedding.weight")
    regions = "" if region_map is None else f", regions of {region_map.shape[1]} features"
    dropped = f"; left out: {', '.join(folder.left_out)}" if folder.left_out else ""
    words, dim = folder.tensors[WORDS].shape
    return (
        f"{output}: {original_depth(folder.tensors)} layers of {dim}, {words} words{regions}, "
        f"{len(folder.tensors)} tensors{dropped}"
    )


def read_bert_config(path: Path) -> dict:
    """Return the content of a BERT's config.json; raise UserError if it is no readable JSON object."""
    try:
        config = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(refusal(path, f"not JSON: {cut(error, 80)}")) from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object with BERT's sizes")
    return config


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): a BERT's folder has it") from error


def _to_original(path: Path, tensors: Tensors, config: dict, vocabulary: bytes) -> BertFolder:
    """Return the folder with its tensors under the original's names and in its layout."""
    plain, prefix = without_prefix(tensors, _OWN)
    left_out: set[str] = set()
    found: Tensors = {}
    stored_names: dict[str, str] = {}
    for name, tensor in plain.items():
        own = name.removeprefix("bert.")
        if LEFT_OUT.search(own):
            left_out.add("cls.*" if own.startswith("cls.") else own)
            continue
        original = _original_name(path, own)
        found[original], stored_names[original] = tensor, prefix + name
    of_paddle = _has_paddle_layout(found, plain)
    if of_paddle:
        found = {
            name: turned(tensor) if _is_linear(name, tensor) else tensor for name, tensor in found.items()
        }
    return BertFolder(path, found, config, vocabulary, sorted(left_out), stored_names, of_paddle)


def _original_name(path: Path, name: str) -> str:
    name = name.replace("layer_norm.", "LayerNorm.")
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if parts := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, part, kind = parts.groups()
        if part not in PADDLE_PARTS:
            raise UserError(f"{path}: tensor {name} is no part of a BERT")
        name = f"encoder.layer.{number}.{PADDLE_PARTS[part]}.{kind}"
    return name if name.startswith("classifier.") else f"bert.{name}"


def _has_paddle_layout(found: Tensors, tensors: Tensors) -> bool:
    """Tell whether linear weights are [in, out], by the shape of a non-square one, else by the names."""
    widening, words = found.get("bert.encoder.layer.0.intermediate.dense.weight"), found.get(WORDS)
    if widening and words and len(widening.shape) == len(words.shape) == 2 and len(set(widening.shape)) == 2:
        return widening.shape[0] == words.shape[1]
    return any(".self_attn." in name for name in tensors)


def _is_linear(name: str, tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and not name.startswith("bert.embeddings.")


def _check(folder: BertFolder, vocabulary: Path) -> None:
    """Raise UserError unless weights, configuration and vocabulary belong together."""
    words, name = folder.vocabulary.rstrip(b"\n").count(b"\n") + 1, folder.path.name
    if WORDS not in folder.tensors:
        raise UserError(f"{folder.path}: no tensor {WORDS.removeprefix('bert.')}: not the weights of a BERT")
    rows = folder.tensors[WORDS].shape[:1] or (0,)
    if words > rows[0]:
        raise UserError(
            f"{vocabulary}: {words} words, but the weights know {rows[0]}: take the vocabulary "
            f"that came with {name}"
        )
    depth, expected = original_depth(folder.tensors), folder.config.get("num_hidden_layers")
    if depth != expected:
        raise UserError(
            f"{folder.path.with_name(CONFIG_FILE)}: num_hidden_layers is {expected}, but {name} has {depth} "
            "layers: take the config.json that came with it"
        )


def _write(output: Path, folder: BertFolder, overwrite: bool) -> None:
    with writing(output) as draft:
        draft.mkdir()
        (draft / VOCABULARY_FILE).write_bytes(folder.vocabulary)
        (draft / CONFIG_FILE).write_text(json.dumps(folder.config, indent=1) + "\n", encoding="utf-8")
        save_safetensors(draft / MODEL_FILE, {name: tensor.read() for name, tensor in folder.tensors.items()})
        refuse_existing(output, overwrite)
