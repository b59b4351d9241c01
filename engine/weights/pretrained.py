"""Loads the weights of a BERT or of an Oscar into our Oscar from vocab.txt, config.json, model.safetensors.

`tools/fetch_pretrained.py` writes folders of these three files.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, some
from engine.weights.bert_folder import CONFIG_FILE, MODEL_FILE, VOCABULARY_FILE, read_bert_config
from engine.weights.bert_names import from_original, original_depth, original_names
from engine.weights.state_dicts import without_prefix
from engine.weights.tensor_files import read_safetensors
from models.bert import BertShape
from models.oscar import Oscar

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "inner_dim": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
NORMS = {
    "norm_epsilon": "layer_norm_eps",
    "region_norm": "use_img_layernorm",
    "region_norm_epsilon": "img_layer_norm_eps",
}
KEYS = {
    "hidden_dim": "MODEL.BERT_DIM",
    "num_layers": "MODEL.BERT_LAYERS",
    "num_heads": "MODEL.BERT_HEADS",
    "inner_dim": "MODEL.BERT_INNER_DIM",
    "max_positions": "MODEL.BERT_POSITIONS",
    "norm_epsilon": "MODEL.BERT_NORM_EPSILON",
    "region_norm": "MODEL.IMG_LAYERNORM",
    "region_norm_epsilon": "MODEL.IMG_LAYERNORM_EPSILON",
}
MAY_BE_MISSING = ("bert.regions.", "classifier.", "words.")  # a BERT has none of them


@dataclass(frozen=True)
class PretrainedFolder:
    """The folder of a BERT or an Oscar: its path and its configuration, before the weights are read."""

    path: Path
    config: dict

    def shape(self, region_dim: int) -> BertShape:
        """Return the sizes of the folder's BERT, with regions of `region_dim` features.

        Raises UserError that names a missing or impossible key, such as an Oscar's number of features.
        """
        own_dim = self.config.get("img_feature_dim", region_dim)
        if own_dim != region_dim:
            raise UserError(
                f"{self.path / CONFIG_FILE}: img_feature_dim is {own_dim}, but the features are {region_dim} "
                "wide; use the features that this model was trained on"
            )
        if self.config.get("hidden_act", "gelu") != "gelu":
            raise UserError(
                f"{self.path / CONFIG_FILE}: hidden_act: expected gelu, got {self.config['hidden_act']!r}"
            )
        sizes = {ours: self._size(theirs) for ours, theirs in SIZES.items()}
        return BertShape(
            **sizes,
            norm_epsilon=self._share("layer_norm_eps", 1e-12),
            region_dim=region_dim,
            region_norm=bool(self.config.get("use_img_layernorm", True)),
            region_norm_epsilon=self._share("img_layer_norm_eps", 1e-12),
            dropout=self._share("hidden_dropout_prob", 0.1),
            attention_dropout=self._share("attention_probs_dropout_prob", 0.1),
            initial_deviation=self._share("initializer_range", 0.02),
        )

    def check_shape(self, configured: BertShape) -> None:
        """Raise UserError that names the keys to set where the configured sizes are not the folder's.

        The vocabulary is compared with the weights later. Dropout is the run's own choice.
        """
        own = self.shape(configured.region_dim)
        told = {ours for ours, theirs in (SIZES | NORMS).items() if theirs in self.config}
        given, expected = asdict(configured), asdict(own)
        keys = [
            f"{KEYS[name]}={expected[name]}"
            for name in KEYS
            if name in told and given[name] != expected[name]
        ]
        if keys:
            raise UserError(
                f"{self.path / CONFIG_FILE}: a model of other sizes than the configured one; "
                f"add {' '.join(keys)}"
            )
        if own.num_segments != configured.num_segments:
            raise UserError(
                f"{self.path / CONFIG_FILE}: type_vocab_size: expected {configured.num_segments}, for a "
                f"caption and tags, got {own.num_segments}; use a BERT"
            )

    def _size(self, key: str) -> int:
        value = self.config.get(key)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{self.path / CONFIG_FILE}: {key}: expected a positive number, got {value!r}")
        return value

    def _share(self, key: str, default: float) -> float:
        value = self.config.get(key, default)
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"{self.path / CONFIG_FILE}: {key}: expected a number in [0, 1), got {value!r}")
        return float(value)


def open_pretrained(folder: str | Path) -> PretrainedFolder:
    """Return the folder of a BERT or an Oscar; raise UserError if it lacks a file."""
    folder = Path(folder)
    for name in (CONFIG_FILE, VOCABULARY_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: no {name}; make the folder with tools/fetch_pretrained.py, or, of an Oscar's "
                "checkpoint, make a run folder with tools/convert_weights.py"
            )
    return PretrainedFolder(folder, read_bert_config(folder / CONFIG_FILE))


def load_pretrained(model: Oscar, pretrained: PretrainedFolder) -> list[str]:
    """Load the weights of `pretrained` into `model`; return the layers that keep their initial weights.

    The layers of regions, the classifier and the head of hidden words may be missing, each as a whole. Raises
    UserError that names a tensor which is missing, unexpected, misshapen or not finite; the model is then as
    it was.
    """
    path = pretrained.path / MODEL_FILE
    arrays, _ = without_prefix(read_safetensors(path), ("bert", "classifier", "cls"))
    parameters = dict(model.named_parameters())
    missing = [name for name in parameters if not set(original_names(name)) <= arrays.keys()]
    fresh = [layer for layer in MAY_BE_MISSING if _lacks(layer, parameters, arrays)]
    _check_names(path, model, missing, fresh, arrays)
    found = {name: from_original(name, arrays) for name in parameters if name not in missing}
    for name, array in found.items():
        _check_array(path, name, array, parameters[name].shape)
    for name, array in found.items():
        parameters[name].set_value(array.astype(np.float32))
    return [layer.removesuffix(".") for layer in fresh]


def _lacks(layer: str, parameters: dict[str, object], arrays: dict[str, np.ndarray]) -> bool:
    """Tell whether the model has `layer` and `arrays` hold none of its tensors."""
    own = [original for name in parameters if name.startswith(layer) for original in original_names(name)]
    return bool(own) and not arrays.keys() & set(own)


def _check_names(
    path: Path, model: Oscar, missing: list[str], fresh: list[str], arrays: dict[str, np.ndarray]
) -> None:
    depth = original_depth(arrays)
    if depth != len(model.bert.layers):
        raise UserError(
            f"{path}: it has {depth} layers, the model {len(model.bert.layers)}; "
            "use the sizes of its config.json"
        )
    refused = [name for name in missing if not name.startswith(tuple(fresh))]
    if refused:
        lacking = sorted(set(original_names(refused[0])) - arrays.keys())[0]
        raise UserError(
            f"{path}: no tensor {lacking}; {len(refused)} of the model's have no weights there: it holds "
            f"{some(arrays, 3)}"
        )
    known = {original for name, _ in model.named_parameters() for original in original_names(name)}
    unexpected = sorted(arrays.keys() - known)
    if unexpected:
        raise UserError(
            f"{path}: unexpected tensor {unexpected[0]}, which the model has no place for; "
            "check the classifier, the labels and the regions' normalisation"
        )


def _check_array(path: Path, name: str, array: np.ndarray, shape: list[int]) -> None:
    original = original_names(name)[0]
    if list(array.shape) != list(shape):
        meant = "; the vocabulary must be the weights' own" if name == "bert.embeddings.words.weight" else ""
        raise UserError(
            f"{path}: tensor {original} is {list(array.shape)} in our layout, the model expects {list(shape)}"
            f"{meant}"
        )
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UserError(f"{path}: tensor {original} has values that are not finite numbers")
