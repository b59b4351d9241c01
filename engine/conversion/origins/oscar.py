"""Oscar and VinVL (microsoft/Oscar), VinVL-Paddle, and a plain BERT, which become our oscar."""

import re
from pathlib import Path, PurePosixPath

from config.errors import UserError
from datasets.words.wordpiece import WordPiece
from engine.conversion.conversion import Conversion, Given, Source
from engine.conversion.rules import Rule, check_tensors, shape_of
from engine.weights.bert_folder import CONFIG_FILE, VOCABULARY_FILE, WORDS, BertFolder, open_bert_folder
from engine.weights.bert_names import EMBEDDINGS, LAYER_MODULES, MODULES, original_depth, original_names
from engine.weights.torch_files import read_torch_file

_WHAT = "a BERT"
_ARGUMENTS = "training_args.bin"  # what Oscar's training stores beside each checkpoint
_ARGUMENT_KEYS = {
    "max_seq_length": ("INPUT.MAX_SEQ_LEN", int),
    "max_img_seq_length": ("INPUT.MAX_REGION", int),
    "add_od_labels": ("INPUT.ADD_OD_LABEL", bool),
    "att_mask_type": ("INPUT.ATT_MASK_TYPE", str),
    "do_lower_case": ("INPUT.DO_LOWER_CASE", bool),
}
# Oscar's and VinVL's own settings of fine-tuning, as configs/base/oscar.yaml has them.
_TRAINING = ["OPTIMIZATION.OPTIMIZER=bert_adamw", "OPTIMIZATION.LR=2e-5", "OPTIMIZATION.WEIGHT_DECAY=0.05"]
_TRAINING += [
    "OPTIMIZATION.LR_SCHEDULER=linear",
    "OPTIMIZATION.CLIP_MAX_NORM=1.0",
    "OPTIMIZATION.BATCH_SIZE=32",
]
_REGIONS, _CLASSIFIER = "bert.regions.", "classifier."


def convert(folder: Path, given: Given) -> Conversion:
    """Return the conversion of a folder with config.json, vocab.txt and weights.

    Layers that a BERT lacks, for regions and the classifier, are named as untrained. Raises UserError for
    what is missing, damaged or contradicts something else.
    """
    bert = open_bert_folder(folder, given.vocabulary)
    tensors, path = bert.tensors, bert.path
    sizes = _sizes(bert)
    expected = _expected(bert, sizes)
    check_tensors(path, tensors, expected, _WHAT)
    is_oscar = "bert.img_embedding.weight" in tensors
    names = _our_names(sizes["layers"], expected)
    rules = [Rule(name, tuple(original_names(name)), _is_linear(name, expected)) for name in names]
    untrained = [
        part for part, there in ((_REGIONS, is_oscar), (_CLASSIFIER, _has_classifier(tensors))) if not there
    ]
    arguments = _arguments(folder / _ARGUMENTS)
    origin = "Oscar" if is_oscar else "BERT"
    if path.name == "paddle_model.bin":
        origin = "VinVL-Paddle"
    notes = [f"left out: {', '.join(bert.left_out)}"] if bert.left_out else []
    if untrained:
        layers = " and ".join(part.rstrip(".") for part in untrained)
        notes.append(f"{layers}: not in the file: random weights of MISC.SEED until it is trained")
    settings = [*_model_settings(bert, sizes, expected), *_data_settings(arguments, sizes), *_TRAINING]
    words = _word_pieces(bert, given.vocabulary or folder / VOCABULARY_FILE, sizes["words"], arguments)
    source = Source(path, tensors, arguments, {"config": bert.config, "names": bert.stored_names})
    left_out = dict.fromkeys(bert.left_out)
    return Conversion(origin, source, rules, tensors, settings, words, left_out, untrained, notes)


def _sizes(bert: BertFolder) -> dict[str, int]:
    """Return the sizes that the tensors tell; raise UserError where config.json contradicts them."""
    tensors, path = bert.tensors, bert.path
    words, dim = shape_of(path, tensors, WORDS, 2, _WHAT)
    positions, _ = shape_of(path, tensors, "bert.embeddings.position_embeddings.weight", 2, _WHAT)
    segments, _ = shape_of(path, tensors, "bert.embeddings.token_type_embeddings.weight", 2, _WHAT)
    inner, _ = shape_of(path, tensors, "bert.encoder.layer.0.intermediate.dense.weight", 2, _WHAT)
    layers, heads = original_depth(tensors), bert.config.get("num_attention_heads")
    where = path.with_name(CONFIG_FILE)
    told = {"vocab_size": words, "hidden_size": dim, "max_position_embeddings": positions}
    told |= {"type_vocab_size": segments, "intermediate_size": inner}
    for name, found in told.items():
        if bert.config.get(name, found) != found:
            raise UserError(
                f"{where}: {name} is {bert.config[name]!r}, but the tensors of {path.name} make it {found}: "
                "take the config.json that came with it"
            )
    if type(heads) is not int or heads < 1 or dim % heads:
        raise UserError(
            f"{where}: num_attention_heads: expected a divisor of hidden_size ({dim}), got {heads!r}"
        )
    if segments != 2:
        raise UserError(
            f"{where}: type_vocab_size: expected 2, for a caption and tags, got {segments}: use a BERT"
        )
    if bert.config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{where}: hidden_act: expected gelu, got {bert.config['hidden_act']!r}")
    sizes = {
        "words": words,
        "dim": dim,
        "positions": positions,
        "inner": inner,
        "layers": layers,
        "heads": heads,
    }
    return sizes


def _expected(bert: BertFolder, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by the original's names; an Oscar has more than a BERT."""
    tensors, dim, inner = bert.tensors, sizes["dim"], sizes["inner"]
    rows = {"words": sizes["words"], "positions": sizes["positions"], "segments": 2}
    expected: dict[str, tuple[int, ...]] = {
        f"{theirs}.weight": (rows[ours.split(".")[1]], dim) for ours, theirs in EMBEDDINGS.items()
    }
    linear = {"bert.pooler.dense": (dim, dim)}
    norms = ["bert.embeddings.LayerNorm"]
    for layer in range(sizes["layers"]):
        for part, modules in LAYER_MODULES.items():
            for module in modules:
                name = f"bert.encoder.layer.{layer}.{module}"
                shape = {"widen": (inner, dim), "narrow": (dim, inner)}.get(part, (dim, dim))
                norms.append(name) if "norm" in part else linear.update({name: shape})
    if "bert.img_embedding.weight" in tensors:
        shape = shape_of(bert.path, tensors, "bert.img_embedding.weight", 2, "an Oscar")
        linear["bert.img_embedding"] = (dim, shape[1])
        if "bert.LayerNorm.weight" in tensors:
            norms.append("bert.LayerNorm")
    linear |= _classifier(bert, dim)
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        expected |= {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
    return expected


def _classifier(bert: BertFolder, dim: int) -> dict[str, tuple[int, int]]:
    """Return the linear maps of the classifier: one, or two of an mlp; none if there is no classifier."""
    tensors = bert.tensors
    if "classifier.0.weight" in tensors:
        inner, _ = shape_of(bert.path, tensors, "classifier.0.weight", 2, "a classifier")
        labels, _ = shape_of(bert.path, tensors, "classifier.2.weight", 2, "a classifier of two layers")
        return {"classifier.0": (inner, dim), "classifier.2": (labels, inner)}
    if not _has_classifier(tensors):
        return {}
    labels, _ = shape_of(bert.path, tensors, "classifier.weight", 2, "a classifier")
    return {"classifier": (labels, dim)}


def _has_classifier(tensors: dict) -> bool:
    return any(name.startswith(_CLASSIFIER) for name in tensors)


def _our_names(layers: int, expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the names of our parameters whose originals are all there."""
    modules = [
        *EMBEDDINGS,
        *MODULES,
        *(f"layers.{layer}.{part}" for layer in range(layers) for part in LAYER_MODULES),
    ]
    names = [f"bert.{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    names += [name for name in expected if name.startswith(_CLASSIFIER)]
    return [name for name in names if set(original_names(name)) <= expected.keys()]


def _is_linear(name: str, expected: dict[str, tuple[int, ...]]) -> bool:
    return not name.startswith("bert.embeddings.") and len(expected[original_names(name)[0]]) == 2


def _model_settings(
    bert: BertFolder, sizes: dict[str, int], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    config = bert.config
    region = expected.get("bert.img_embedding.weight", (0, 2054))  # a BERT gets VinVL's features
    last = expected.get("classifier.weight") or expected.get("classifier.2.weight")
    labels = last[0] if last else 2
    if labels not in (1, 2):
        raise UserError(
            f"{bert.path}: a classifier of {labels} labels, expected 1, or 2 for no match and match"
        )
    settings = [
        "MODEL.NAME=oscar",
        f"MODEL.BERT_DIM={sizes['dim']}",
        f"MODEL.BERT_LAYERS={sizes['layers']}",
        f"MODEL.BERT_HEADS={sizes['heads']}",
        f"MODEL.BERT_INNER_DIM={sizes['inner']}",
        f"MODEL.BERT_POSITIONS={sizes['positions']}",
        f"MODEL.IMG_LAYERNORM={str('bert.LayerNorm.weight' in expected or region[0] == 0).lower()}",
        f"INPUT.IMG_FEATURE_DIM={region[1]}",
        f"OUTPUT.NUM_LABELS={labels}",
        f"LOSS.NAME={'match_cross_entropy' if labels == 2 else 'match_regression'}",
    ]
    if "classifier.0.weight" in expected:
        scale, rest = divmod(expected["classifier.0.weight"][0], sizes["dim"])
        if rest or not scale:
            raise UserError(f"{bert.path}: classifier.0.weight has no multiple of {sizes['dim']} rows")
        settings += ["MODEL.CLASSIFIER=mlp", f"MODEL.CLASSIFIER_SCALE={scale}"]
    floats = {
        "layer_norm_eps": "MODEL.BERT_NORM_EPSILON",
        "img_layer_norm_eps": "MODEL.IMG_LAYERNORM_EPSILON",
        "hidden_dropout_prob": "MODEL.BERT_DROPOUT",
        "attention_probs_dropout_prob": "MODEL.BERT_ATTENTION_DROPOUT",
        "initializer_range": "MODEL.BERT_DEVIATION",
    }
    for name, key in floats.items():
        value = config.get(name)
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 <= value < 1:
            where = bert.path.with_name(CONFIG_FILE)
            raise UserError(f"{where}: {name}: expected a number in [0, 1), got {str(value)[:40]!r}")
        settings.append(f"{key}={float(value)!r}")
    return settings


def _arguments(path: Path) -> dict:
    """Return the arguments of Oscar's training, if they lie beside the weights."""
    content = read_torch_file(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _data_settings(arguments: dict, sizes: dict[str, int]) -> list[str]:
    """Return where data lies and how much of it is read, in VinVL's layout, by its training's arguments."""
    lengths = {"INPUT.MAX_SEQ_LEN": min(70, sizes["positions"]), "INPUT.MAX_REGION": 70}
    found: dict[str, object] = dict(lengths)
    for name, (key, kind) in _ARGUMENT_KEYS.items():
        if type(arguments.get(name)) is kind:
            found[key] = arguments[name]
    attention = found.get("INPUT.ATT_MASK_TYPE")
    if attention not in (None, "CLR", "CL", "CR", "LR"):
        found.pop("INPUT.ATT_MASK_TYPE")
    settings = [
        f"{key}={str(value).lower() if type(value) is bool else value}" for key, value in found.items()
    ]
    splits = ["DATASET.TRAIN=train", "DATASET.DEV=minival", "DATASET.TEST=test"]
    return [*settings, "DATASET.FORMAT=vinvl", f"DATASET.FEAT_FILE={_feature_file(arguments)}", *splits]


def _feature_file(arguments: dict) -> str:
    """Return the features' path below the data folder, as the arguments tell it, or VinVL's usual name."""
    given = arguments.get("img_feat_file")
    if not isinstance(given, str) or not re.fullmatch(r"[\w./-]+\.tsv", given):
        return "features.tsv"
    folder, path = PurePosixPath(str(arguments.get("data_dir", ""))), PurePosixPath(given)
    inside = path.is_relative_to(folder) and folder.parts
    return str(path.relative_to(folder)) if inside and ".." not in path.parts else path.name


def _word_pieces(bert: BertFolder, path: Path, rows: int, arguments: dict) -> WordPiece:
    """Return the vocabulary; rows of word vectors beyond it, which pad some models, get free names."""
    lower_case = arguments.get("do_lower_case", bert.config.get("do_lower_case", True))
    words = WordPiece.load(path, bool(lower_case))
    free = [f"[free {number}]" for number in range(len(words), rows)]
    return WordPiece([*words.pieces, *free], bool(lower_case), str(path)) if free else words
