"""Read and write the description of a bundle, `model.json`: what a model's graphs are, and how to feed them.

format      1
family, kind, precision
runtime     "onnx" for ONNX Runtime, "paddle" for Paddle Inference
embedding   width, measure ("cosine" or "order"), abs; null for a pair scorer
text        tokenizer, lower, file, longest (tokens of a text, 0: any); null for a model without text
image       reads: "features", "regions" or "pixels"; width of a vector, or how to prepare a picture
extraction  how tools/extract_features.py made the features that the model was trained on: backbone,
            detector, options; null where that is not known, or there are none
graphs      by name (image, text, pairs): file, and the inputs and outputs with type and shape
checkpoint  sha256, model and step of the weights
versions    of the packages that made the bundle
proof       what was compared, and how far the graphs are from the model
files       bytes and sha256 of each other file, by name
checksum    SHA-256 of all other values
"""

import hashlib
import json
from pathlib import Path

from config.errors import UserError, cut

FORMAT = 1
DESCRIPTION_FILE = "model.json"
# What the embeddings of two bundles depend on, beside the content of their files.
_DECIDING = ("format", "runtime", "family", "kind", "precision", "embedding", "text", "image", "graphs")


def write_description(folder: Path, content: dict) -> dict:
    """Write `model.json` for the files that lie in `folder`, and return all that it holds.

    Raises OSError.
    """
    names = sorted(path.name for path in folder.iterdir() if path.name != DESCRIPTION_FILE)
    files = {name: _fingerprint(folder / name) for name in names}
    description = {**content, "format": FORMAT, "files": files}
    description.pop("checksum", None)
    description["checksum"] = _checksum(description)
    text = json.dumps(description, indent=1, ensure_ascii=False)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    return description


def read_description(folder: Path) -> dict:
    """Return the content of a bundle's `model.json`, after a check of all files against their hashes.

    Raises UserError for a bundle that is missing, cut, changed, or of another format.
    """
    path = folder / DESCRIPTION_FILE
    remedy = "export the model again, or copy the whole folder"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version, expected = description["format"], description.pop("checksum", None)
    except OSError as error:
        reason = "no such folder" if not folder.is_dir() else f"it has no readable {DESCRIPTION_FILE}"
        raise UserError(
            f"no bundle at {folder}: {reason}; make one with tools/export_model.py --out {folder}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not the description of a bundle ({_short(error)}); {remedy}") from error
    if version != FORMAT:
        raise UserError(
            f"{path}: expected a bundle of format {FORMAT}, got {cut(repr(version))}; export the model "
            "again, or use the version of the toolkit that wrote it"
        )
    if expected != _checksum(description):
        raise UserError(f"{path} is damaged: its values do not add up to its checksum; {remedy}")
    if not isinstance(description.get("extraction"), dict | None):
        raise UserError(f"{path}: extraction: expected an object or null; {remedy}")
    for name, fingerprint in description["files"].items():
        _check_file(folder / Path(name).name, fingerprint, remedy)
    return description


def identity_of(description: dict) -> str:
    """Return a SHA-256 in hexadecimal of all that decides a bundle's embeddings: graphs, vocabulary, measure.

    The proof, the versions and the checkpoint's folder do not count.
    """
    deciding = {key: description.get(key) for key in _DECIDING}
    deciding["files"] = {name: each["sha256"] for name, each in description["files"].items()}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path, fingerprint: dict, remedy: str) -> None:
    try:
        found = _fingerprint(path)
    except OSError as error:
        raise UserError(f"bundle {path.parent} lacks {path.name} ({error.strerror}); {remedy}") from error
    if found["bytes"] != fingerprint["bytes"]:
        raise UserError(
            f"{path} is damaged: expected {fingerprint['bytes']} bytes, found {found['bytes']}; {remedy}"
        )
    if found["sha256"] != fingerprint["sha256"]:
        raise UserError(f"{path} was changed: its checksum differs from {DESCRIPTION_FILE}; {remedy}")


def _fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _checksum(description: dict) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
