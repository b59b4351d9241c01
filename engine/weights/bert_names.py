"""Translates names and layouts of BERT's weights from the original to ours.

The original is pytorch-transformers and Oscar, with names such as `bert.encoder.layer.0.output.dense.weight`.
Its linear weights are [out, in], ours are [in, out]. It has two matrices for keys and values, we have one.
"""

import re
from collections.abc import Iterable

import numpy as np

EMBEDDINGS = {
    "embeddings.words": "bert.embeddings.word_embeddings",
    "embeddings.positions": "bert.embeddings.position_embeddings",
    "embeddings.segments": "bert.embeddings.token_type_embeddings",
}
MODULES = {
    "embeddings.norm": ["bert.embeddings.LayerNorm"],
    "regions.fc": ["bert.img_embedding"],
    "regions.norm": ["bert.LayerNorm"],
    "pooler": ["bert.pooler.dense"],
}
# The head that guesses hidden words; its last map is the word embeddings.
WORD_HEAD = {
    "words.fc.weight": "cls.predictions.transform.dense.weight",
    "words.fc.bias": "cls.predictions.transform.dense.bias",
    "words.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "words.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "words.bias": "cls.predictions.bias",
}
LAYER_MODULES = {
    "query": ["attention.self.query"],
    "key_value": ["attention.self.key", "attention.self.value"],
    "attended": ["attention.output.dense"],
    "attended_norm": ["attention.output.LayerNorm"],
    "widen": ["intermediate.dense"],
    "narrow": ["output.dense"],
    "norm": ["output.LayerNorm"],
}


def original_names(name: str) -> list[str]:
    """Return the original's names for our parameter `name`, `bert.*`, `classifier.*` or `words.*`."""
    if name.startswith("classifier."):
        return [name]
    if name in WORD_HEAD:
        return [WORD_HEAD[name]]
    module, kind = name.removeprefix("bert.").rsplit(".", 1)
    if module in EMBEDDINGS:
        return [f"{EMBEDDINGS[module]}.{kind}"]
    if module in MODULES:
        return [f"{original}.{kind}" for original in MODULES[module]]
    _, number, part = module.split(".")
    return [f"bert.encoder.layer.{number}.{original}.{kind}" for original in LAYER_MODULES[part]]


def from_original(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return our parameter `name`, made of the original's `arrays`; raise KeyError if these lack it."""
    parts = [arrays[original] for original in original_names(name)]
    is_linear = parts[0].ndim == 2 and not name.startswith("bert.embeddings.")
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(array.T) if is_linear else array


def original_depth(names: Iterable[str]) -> int:
    """Return the number of layers that the original's `names` of tensors tell of."""
    found = (re.match(r"bert\.encoder\.layer\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)
