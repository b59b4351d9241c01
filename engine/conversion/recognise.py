"""Tells whose checkpoint a file or a folder is, and converts it by the module of that origin."""

from pathlib import Path

from config.errors import UserError, some
from config.files.kinds import is_zip
from engine.conversion.conversion import Conversion, Given, Source
from engine.conversion.origins import cnn, oscar, vse, vsepp, vsrn
from engine.conversion.origins.dual import dual_source
from engine.conversion.vocabularies import is_pickle, is_vocabulary, read_content, unpickle_words
from engine.weights.bert_folder import CONFIG_FILE, WEIGHTS
from engine.weights.paddle_files import NAMES_KEY
from engine.weights.state_dicts import describe, state_dict_of, without_prefix
from engine.weights.stored import stored_tensors
from engine.weights.weight_files import open_weights

KNOWN = (
    "VSE++, SCAN and VSRN (.pth.tar), VSE's PyTorch port, Oscar, VinVL, VinVL-Paddle and BERT (folders with "
    "config.json and vocab.txt), torchvision's and Paddle's CNNs"
)
_FIRST_OF_CNN = (
    "conv1.weight",
    "features.0.weight",
    "features.0.0.weight",
    "features.module.0.weight",
    "conv_stem.weight",
)


def open_source(path: Path) -> object:
    """Return what the file `path` holds: stored tensors in plain containers, captions, or a vocabulary.

    Raises UserError for a file that cannot be read or is of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder: expected a checkpoint of {KNOWN}")
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): mend its permissions") from error
    if path.suffix == ".json":
        return read_content(path)
    if is_pickle(head) and not is_zip(path) and not _is_of_torch_or_paddle(path, head):
        return unpickle_words(path)
    return open_weights(path)


def _is_of_torch_or_paddle(path: Path, head: bytes) -> bool:
    """Tell whether a pickle is a stream of torch, which begins with a number, or holds arrays of Paddle."""
    if head[2:4] == b"\x8a\x0a" or path.suffix == ".pdparams" or path.name.startswith("paddle"):
        return True
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    return NAMES_KEY.encode() in start or b"_reconstruct" in start


def recognise(path: Path, content: object, given: Given) -> Conversion:
    """Return the conversion of the checkpoint `path`, whose content `open_source` returned (None: a folder).

    Raises UserError for a checkpoint of none of the known origins, and whatever their modules raise.
    """
    if path.is_dir():
        if (path / CONFIG_FILE).is_file() or any((path / name).is_file() for name in WEIGHTS):
            return oscar.convert(path, given)
        raise UserError(
            f"{path}: a folder without {CONFIG_FILE}, expected that of a BERT or an Oscar, or a file"
        )
    if path.name in WEIGHTS and path.with_name(CONFIG_FILE).is_file():
        return oscar.convert(path.parent, given)
    two = dual_source(content, path)
    if two is not None:
        vsepp.refuse_vse_infty(two)
        return (vsrn if vsrn.is_vsrn(two) else vsepp).convert(two, given)
    if not any(True for _ in stored_tensors(content)):
        raise UserError(f"{path}: no weights: {describe(content)}: expected a checkpoint of {KNOWN}")
    tensors = state_dict_of(content, path)
    for module, is_own in ((vse, vse.is_vse), (cnn, cnn.is_cnn)):
        plain, prefix = without_prefix(tensors, module.OWN)
        if is_own(plain):
            return module.convert(Source(path, plain, prefix=prefix), given)
    names = list(without_prefix(tensors)[0])
    _refuse_parts(path, names)
    raise UserError(
        f"{path}: tensors of no model that is known here ({KNOWN}); it holds {some(list(tensors), 3)}"
    )


def _refuse_parts(path: Path, names: list[str]) -> None:
    """Raise UserError for tensors that are a part of a checkpoint, saying which part is missing."""
    if any(name.startswith("decoder.attention.") for name in names):
        raise UserError(
            f"{path}: VSRN's caption decoder alone: convert the checkpoint, and give this file with "
            "--caption_model"
        )
    if any("word_embeddings" in name for name in names):
        if path.with_name(CONFIG_FILE).is_file():
            others = [name for name in WEIGHTS if path.with_name(name).is_file()]
            remedy = f"rename the file to pytorch_model.bin, and give the folder, {path.parent}"
            if others:
                remedy = (
                    f"the folder is that of {others[0]}: copy {CONFIG_FILE}, vocab.txt and this file, as "
                    "pytorch_model.bin, into another folder, and give that one"
                )
            raise UserError(f"{path}: a BERT's weights beside {CONFIG_FILE}: {remedy}")
        raise UserError(
            f"{path}: a BERT's weights: put {CONFIG_FILE} and vocab.txt beside them, under one of the names "
            f"{', '.join(WEIGHTS)}, and give the folder"
        )


def kind_of_content(content: object) -> str:
    """Tell what a file holds: "weights", "vocabulary" or "lists", VinVL's captions by image."""
    if any(True for _ in stored_tensors(content)):
        return "weights"
    return "vocabulary" if is_vocabulary(content) else "lists"


def holds_cnn(content: object) -> bool:
    """Tell whether some tensor has the name of a CNN's: its conversion builds the network with Paddle."""
    waiting = [content]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, dict):
            if any(str(name).endswith(_FIRST_OF_CNN) for name in thing):
                return True
            waiting += [value for value in thing.values() if isinstance(value, dict | list | tuple)]
        elif isinstance(thing, list | tuple) and len(thing) <= 8:
            waiting += thing
    return False
