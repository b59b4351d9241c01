"""Writes a run of ours in the layout of the original: the same names, shapes, types and bits."""

import contextlib
import json
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError, cut
from config.files.whole import refuse_existing, write_whole, writing
from config.load import config_of_checkpoint
from datasets.words.vocabulary import Vocabulary
from engine.conversion.native import native_layout
from engine.conversion.rules import Rule, original
from engine.conversion.torch_writer import emit_pickle, write_torch_file
from engine.conversion.vocabularies import original_text
from engine.runs.checkpoint import MODEL_FILE, read_state, resolve_checkpoint, verify_files
from engine.runs.run_status import SHEET_FILE
from engine.weights.bert_folder import CONFIG_FILE, VOCABULARY_FILE
from engine.weights.plain_pickle import PlainObject
from engine.weights.state_dicts import Tensors
from engine.weights.stored import StoredTensor, narrow, stored
from engine.weights.tensor_files import open_safetensors

OSCAR_WEIGHTS = "pytorch_model.bin"


def write_torch(run: Path, output: Path, overwrite: bool) -> str:
    """Write the run or checkpoint `run` as `output`; return a line about it.

    The output is a file such as `x.pth.tar`, beside which the vocabulary becomes `x.vocab.json` and a caption
    decoder `x.caption_model.pth`, or of an oscar a folder. Tensors of a converted run get back the names and
    types that its `conversion.json` tells; others those of the original's code. Raises UserError for a run
    that has no original, and a damaged one.
    """
    checkpoint = resolve_checkpoint(run)
    state = read_state(checkpoint)
    verify_files(checkpoint, state)
    cfg = config_of_checkpoint(str(checkpoint))
    arrays, extra = _folded(open_safetensors(checkpoint / MODEL_FILE))
    sheet = _read_sheet(checkpoint.parent / SHEET_FILE) or native_layout(cfg, arrays)
    tensors = _originals(sheet, arrays, checkpoint)
    if cfg.MODEL.NAME == "oscar":
        _write_folder(output, tensors, sheet, checkpoint, overwrite)
    else:
        with writing(output) as draft:
            write_torch_file(draft, _content(cfg.MODEL.NAME, tensors, sheet, state))
            refuse_existing(output, overwrite)
        extra += _write_beside(output, cfg, tensors, sheet, overwrite)
        if cfg.MODEL.TEXT_POOLING != "last" and sheet["origin"] != "SCAN":
            extra += f"; it pools words by {cfg.MODEL.TEXT_POOLING}, the original's code by last"
        extra += _write_words(output, cfg, checkpoint, overwrite)
    return f"{output}: {len(tensors)} tensors in the layout of {sheet['origin']}{extra}"


def _read_sheet(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        sheet = json.loads(path.read_text(encoding="utf-8"))
        (
            sheet["tensors"],
            sheet["original"],
            sheet["origin"],
            sheet["options"],
            sheet["entries"],
            sheet["left_out"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not the parity sheet of a conversion ({cut(error, 80)}): convert again"
        ) from error
    return sheet


def _folded(arrays: Tensors) -> tuple[Tensors, str]:
    """Return the tensors with the standardisation of features as a part of the linear map behind it.

    (x - m) / d W + b is x W/d + (b - m W/d). The text says so, and is empty if there is none.
    """
    names = [f"image_encoder.{name}" for name in ("feature_norm.mean", "feature_norm.deviation")]
    if not arrays.keys() >= {*names}:
        return arrays, ""
    weight, bias = "image_encoder.fc.weight", "image_encoder.fc.bias"
    mean, deviation = (arrays[name].load().astype(np.float64) for name in names)  # [F]
    scaled = arrays[weight].load() / deviation[:, None]  # [F,D]
    moved = arrays[bias].load() - mean @ scaled  # [D]
    others = {name: tensor for name, tensor in arrays.items() if name not in names}
    folded = {weight: stored(scaled.astype(np.float32)), bias: stored(moved.astype(np.float32))}
    return (
        others | folded,
        "; the standardisation of features (INPUT.STANDARDIZE) is a part of its linear map",
    )


def _originals(sheet: dict, arrays: Tensors, checkpoint: Path) -> Tensors:
    """Return the original's tensors by name, each made of ours when it is asked for."""
    try:
        rules = [
            Rule(
                row["tensor"],
                tuple(row["from"]),
                row["transposed"],
                tuple(row["columns"]) if row["columns"] else None,
            )
            for row in sheet["tensors"]
        ]
        missing = sorted(arrays.keys() ^ {rule.ours for rule in rules})
        if missing:
            raise UserError(f"{checkpoint}: tensor {missing[0]} has no place in {sheet['origin']}'s layout")
        by_name: dict[str, list[Rule]] = {}
        for rule in rules:
            for name in rule.theirs:
                by_name.setdefault(name, []).append(rule)
        return {
            row["name"]: _original_tensor(row["name"], row["type"], tuple(row["shape"]), by_name, arrays)
            for row in sheet["original"]
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{checkpoint}: its {SHEET_FILE} is damaged ({error}): convert again") from error


def _original_tensor(
    name: str, kind: str, shape: tuple[int, ...], by_name: dict[str, list[Rule]], arrays: Tensors
) -> StoredTensor:
    """Return one of the original's tensors; trained numbers that its type cannot hold stay float32."""
    rules = by_name[name]

    def load() -> np.ndarray:
        return original(name, rules, arrays, shape)

    if kind in ("float16", "bfloat16"):
        with contextlib.suppress(ValueError):
            narrowed = narrow(load(), kind)
            return StoredTensor(shape, kind, lambda: narrowed)
    return StoredTensor(shape, "float64" if kind == "float64" else "float32", load)


def _content(family: str, tensors: Tensors, sheet: dict, state: dict) -> object:
    """Return what the original's training stores: of a dual encoder two encoders, options and counts."""
    counters = {name: _counter(value) for name, value in sheet["left_out"].items() if value is not None}
    everything = tensors | counters
    if family in ("vse", "cnn"):
        return everything
    parts = [
        {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in everything.items()
            if name.startswith(f"{part}.")
        }
        for part in ("img", "txt")
    ]
    options = PlainObject()
    options.update(sheet["options"])
    entries = {"epoch": 0, "best_rsum": 0.0, "Eiters": state["progress"]["step"]} | sheet["entries"]
    return {"epoch": entries.pop("epoch"), "model": parts, "opt": options} | entries


def _counter(value: object) -> StoredTensor:
    array = np.array(int(value), dtype=np.int64)
    return StoredTensor((), "int64", lambda: array)


def _write_beside(output: Path, cfg: CfgNode, tensors: Tensors, sheet: dict, overwrite: bool) -> str:
    """Write what the original keeps in a second file; return a text that names it."""
    if cfg.MODEL.NAME == "vse" and sheet["options"] and "model" in output.name:
        path = output.with_name(output.name.replace("model", "params"))
        refuse_existing(path, overwrite)
        with writing(path) as draft:
            draft.write_bytes(emit_pickle(sheet["options"]))
        return f"; options: {path}"
    decoder = {
        name.removeprefix("cap."): tensor for name, tensor in tensors.items() if name.startswith("cap.")
    }
    if not decoder:
        return ""
    path = _beside(output, ".caption_model.pth")
    refuse_existing(path, overwrite)
    with writing(path) as draft:
        write_torch_file(draft, decoder)
    return f"; caption decoder: {path}"


def _write_words(output: Path, cfg: CfgNode, checkpoint: Path, overwrite: bool) -> str:
    """Write the vocabulary of a dual encoder as its original reads it; return a text that names the file."""
    family = cfg.MODEL.NAME
    if family not in ("vse", "vsepp", "vsrn"):
        return ""
    vocabulary = Vocabulary.load(checkpoint / Vocabulary.file_name)
    path = _beside(output, ".dictionary.json" if family == "vse" else ".vocab.json")
    refuse_existing(path, overwrite)
    write_whole(path, original_text(vocabulary, family == "vse"))
    tokenizer = "whitespace" if family == "vse" else "nltk"
    other = f" (of the tokenizer {vocabulary.tokenizer}, the original's is {tokenizer})"
    return f"; vocabulary: {path}{'' if vocabulary.tokenizer == tokenizer else other}"


def _beside(output: Path, ending: str) -> Path:
    stem = output.name.removesuffix(".tar").removesuffix(".pth").removesuffix(".pkl")
    return output.with_name(stem + ending)


def _write_folder(output: Path, tensors: Tensors, sheet: dict, checkpoint: Path, overwrite: bool) -> None:
    """Write the folder of an Oscar: pytorch_model.bin, config.json and vocab.txt."""
    names = sheet["entries"].get("names", {})
    with writing(output) as draft:
        draft.mkdir()
        write_torch_file(
            draft / OSCAR_WEIGHTS, {names.get(name, name): tensor for name, tensor in tensors.items()}
        )
        text = json.dumps(sheet["entries"].get("config", {}), indent=1) + "\n"
        (draft / CONFIG_FILE).write_text(text, encoding="utf-8")
        (draft / VOCABULARY_FILE).write_bytes((checkpoint / VOCABULARY_FILE).read_bytes())
        refuse_existing(output, overwrite)
