"""Checkpoints and vocabularies of other implementations, as tests write them without torch."""

import json
from pathlib import Path

import numpy as np

from engine.conversion.torch_writer import write_torch_file
from engine.weights.plain_pickle import PlainObject
from engine.weights.stored import StoredTensor, stored

MARKERS = ["<pad>", "<start>", "<end>", "<unk>"]


def options(**values: object) -> PlainObject:
    """Return an argparse.Namespace as a file holds it."""
    found = PlainObject()
    found.update(values)
    return found


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, StoredTensor]:
    """Return arrays by name as stored tensors."""
    return {name: stored(array) for name, array in arrays.items()}


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, StoredTensor]:
    """Return random float32 tensors of these shapes."""
    random = np.random.default_rng(seed)
    return tensors({name: random.normal(size=shape).astype("f4") * 0.1 for name, shape in shapes.items()})


def word_names(count: int) -> list[str]:
    """Return the words of a vocabulary of `count`, the markers of VSE++ first."""
    return [*MARKERS, *(f"word{number}" for number in range(count - len(MARKERS)))]


def write_vocabulary(path: Path, words: list[str]) -> Path:
    """Write a vocabulary in the JSON of VSE++, SCAN and VSRN."""
    ids = {word: number for number, word in enumerate(words)}
    content = {"word2idx": ids, "idx2word": {number: word for word, number in ids.items()}, "idx": len(words)}
    path.write_text(json.dumps(content))
    return path


def gru(prefix: str, inputs: int, size: int, ends: tuple[str, ...] = ("l0",)) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a GRU's tensors."""
    shapes = {}
    for end in ends:
        shapes |= {
            f"{prefix}.weight_ih_{end}": (3 * size, inputs),
            f"{prefix}.weight_hh_{end}": (3 * size, size),
        }
        shapes |= {f"{prefix}.bias_ih_{end}": (3 * size,), f"{prefix}.bias_hh_{end}": (3 * size,)}
    return shapes


def vsepp_parts(vocab: int = 9) -> list[dict[str, StoredTensor]]:
    """Return the encoders of a small VSE++: 6 features, a vocabulary of `vocab` words."""
    image = {"fc.weight": (5, 6), "fc.bias": (5,)}
    text = {"embed.weight": (vocab, 4), **gru("rnn", 4, 5)}
    return [random_tensors(image), random_tensors(text, 1)]


def vsepp_options(**changes: object) -> PlainObject:
    """Return what VSE++'s training stores beside the encoders of `vsepp_parts`."""
    values = {"data_name": "f8k_precomp", "img_dim": 6, "embed_size": 5, "word_dim": 4, "num_layers": 1}
    values |= {"vocab_size": 9, "measure": "cosine", "use_abs": False, "no_imgnorm": False, "margin": 0.2}
    return options(**values | changes)


def write_vsepp(path: Path, parts: list | None = None, **changes: object) -> Path:
    """Write a small VSE++ as its training does."""
    content = {"epoch": 1, "model": parts or vsepp_parts(), "best_rsum": 1.5, "opt": vsepp_options(**changes)}
    write_torch_file(path, content | {"Eiters": 7})
    return path
