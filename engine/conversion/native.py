"""The original's layout of a run that was trained here: what a parity sheet tells of a converted one."""

import re

from yacs.config import CfgNode

from config.errors import UserError
from engine.conversion.rules import Rule
from engine.weights.bert_names import original_names
from engine.weights.state_dicts import Tensors

# Our modules, by patterns, and the original's. The first one that matches counts.
_STATISTICS = [(r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var")]
_VSEPP = [
    (r"^image_encoder\.(head\.)?fc\.", "img.fc."),
    (r"^image_encoder\.cnn\.network\.features\.", "img.cnn.features.module."),
    (r"^image_encoder\.cnn\.network\.classifier\.", "img.cnn.classifier."),
    (r"^image_encoder\.cnn\.network\.", "img.cnn.module."),
    (r"^text_encoder\.", "txt."),
]
_VSRN = [
    (r"^image_encoder\.rnn\.", "img.img_rnn."),
    (r"^image_encoder\.norm\.", "img.bn."),
    (r"^image_encoder\.blocks\.0\.", "img.Rs_GCN_1."),
    (r"^image_encoder\.fc\.", "img.fc."),
    (r"^text_encoder\.", "txt."),
    (r"^captioner\.region_map\.", "cap.encoder.vid2hid."),
    (r"^captioner\.region_rnn\.", "cap.encoder.rnn."),
    (r"^captioner\.embed\.", "cap.decoder.embedding."),
    (r"^captioner\.attend_(region|state)\.", "cap.decoder.attention.linear1."),
    (r"^captioner\.attend\.", "cap.decoder.attention.linear2."),
    (r"^captioner\.out\.", "cap.decoder.out."),
    (r"^captioner\.cell\.(\w+)$", r"cap.decoder.rnn.\1_l0"),
]
_VSE = [
    (r"^image_encoder\.fc\.", "linear."),
    (r"^text_encoder\.embed\.", "embedding."),
    (r"^text_encoder\.rnn\.", "lstm."),
]
_CNN = [(r"^cnn\.network\.", "")]
_PATTERNS = {"vse": _VSE, "vsepp": _VSEPP, "vsrn": _VSRN, "cnn": _CNN, "efficientnet": _CNN}
_ORIGINS = {"vse": "VSE (Kiros)", "vsepp": "VSE++", "vsrn": "VSRN", "cnn": "torchvision", "oscar": "Oscar"}
_ORIGINS["efficientnet"] = "EfficientNet-PyTorch"


def native_layout(cfg: CfgNode, arrays: Tensors) -> dict:
    """Return how the tensors of a run of family `cfg.MODEL.NAME` are named and laid out in the original.

    Raises UserError for a tensor that the original has not, such as the mean of standardised features.
    """
    family = cfg.MODEL.NAME
    if family == "cnn" and cfg.MODEL.CNN.startswith("efficientnet_lite"):
        family = "efficientnet"
    rules = [_rule(family, name, tensor.shape) for name, tensor in arrays.items()]
    shapes: dict[str, list[int]] = {}
    for rule in rules:
        shape = list(arrays[rule.ours].shape)
        shape = shape[::-1] if rule.transposed else shape
        shape[:1] = [shape[0] // len(rule.theirs)] if shape else []
        for name in rule.theirs:
            if name in shapes and rule.columns:
                shapes[name][1] += shape[1]
            else:
                shapes[name] = [*shape, 1] if _is_convolution(name, shape) else list(shape)
    return {
        "origin": _ORIGINS[family],
        "tensors": [
            {
                "tensor": rule.ours,
                "from": list(rule.theirs),
                "transposed": rule.transposed,
                "columns": list(rule.columns) if rule.columns else None,
            }
            for rule in rules
        ],
        "original": [{"name": name, "shape": shape, "type": "float32"} for name, shape in shapes.items()],
        "left_out": {
            name.replace("running_var", "num_batches_tracked"): 0
            for name in shapes
            if name.endswith("running_var")
        },
        "options": _options(cfg, arrays),
        "entries": {"config": _bert_config(cfg, arrays)} if cfg.MODEL.NAME == "oscar" else {},
    }


def _rule(family: str, name: str, shape: tuple[int, ...]) -> Rule:
    is_linear = len(shape) == 2 and not re.search(
        r"embed|\brnn\.|_rnn\.|captioner\.cell\.|^bert\.embeddings\.", name
    )
    if family == "oscar":
        if not name.startswith(("bert.", "classifier.", "words.")):
            raise UserError(f"--to torch: tensor {name} has no place in an Oscar: {_without(name)}")
        return Rule(name, tuple(original_names(name)), is_linear)
    theirs = _renamed(family, name)
    columns = None
    if name.startswith("captioner.attend_") and name.endswith("weight"):  # one matrix for [region; state]
        columns = (0, shape[0]) if "region" in name else (shape[0], 2 * shape[0])
    return Rule(name, (theirs,), is_linear, columns)


def _renamed(family: str, name: str) -> str:
    block = re.match(r"image_encoder\.blocks\.(\d+)\.(\w+)\.(.+)", name) if family == "vsrn" else None
    if block:
        number, part, kind = block.groups()
        theirs = f"img.Rs_GCN_{int(number) + 1}.{ {'out': 'W.0', 'norm': 'W.1'}.get(part, part) }.{kind}"
    else:
        for pattern, replacement in _PATTERNS[family]:
            theirs, changes = re.subn(pattern, replacement, name)
            if changes:
                break
        else:
            raise UserError(f"--to torch: tensor {name} has no place in {_ORIGINS[family]}: {_without(name)}")
    if family == "efficientnet":  # whose modules are private there, unless they are numbers
        theirs = re.sub(r"(^|\.)([a-z]\w*)(?=\.)", r"\1_\2", theirs)
    for pattern, replacement in _STATISTICS:
        theirs = re.sub(pattern, replacement, theirs)
    return theirs


def _without(name: str) -> str:
    """Return how to train without the part of a model that a tensor belongs to."""
    keys = {"feature_norm": "INPUT.STANDARDIZE=false", "directions": "MODEL.DIRECTION_DIM=0"}
    setting = next((value for part, value in keys.items() if part in name), "")
    return f"train with {setting}" if setting else "train without it"


def _is_convolution(name: str, shape: list[int]) -> bool:
    return len(shape) == 2 and re.search(r"Rs_GCN_\d+\.(g|theta|phi|W\.0)\.weight$", name) is not None


def _options(cfg: CfgNode, arrays: Tensors) -> dict:
    """Return the options that the original's code reads from a checkpoint."""
    if cfg.MODEL.NAME in ("oscar", "cnn"):
        return {}
    words = arrays["text_encoder.embed.weight"].shape[0]
    if cfg.MODEL.NAME == "vse":
        sizes = {"dim_image": cfg.INPUT.IMG_FEATURE_DIM, "dim": cfg.MODEL.EMBED_DIM}
        return sizes | {"dim_word": cfg.MODEL.WORD_DIM, "n_words": words, "margin": cfg.LOSS.MARGIN}
    options = {
        "data_name": cfg.DATASET.NAME,
        "img_dim": cfg.INPUT.IMG_FEATURE_DIM,
        "embed_size": cfg.MODEL.EMBED_DIM,
        "word_dim": cfg.MODEL.WORD_DIM,
        "num_layers": cfg.MODEL.NUM_LAYERS,
        "vocab_size": words,
        "measure": cfg.MODEL.MEASURE,
        "use_abs": cfg.MODEL.USE_ABS,
        "no_imgnorm": cfg.MODEL.NO_IMGNORM,
        "margin": cfg.LOSS.MARGIN,
        "max_violation": cfg.LOSS.HARD_NEGATIVE,
        "grad_clip": cfg.OPTIMIZATION.CLIP_MAX_NORM,
        "learning_rate": cfg.OPTIMIZATION.LR,
        "batch_size": cfg.OPTIMIZATION.BATCH_SIZE,
        "crop_size": cfg.INPUT.CROP_SIZE,
    }
    if cfg.MODEL.CNN:
        options |= {"cnn_type": cfg.MODEL.CNN, "finetune": not cfg.MODEL.CNN_FREEZE_EPOCHS}
    if cfg.MODEL.NAME == "vsrn":
        options["data_name"] = "f30k_precomp" if cfg.MODEL.IMAGE_BATCHNORM else "coco_precomp"
        options |= {"dim_vid": cfg.MODEL.EMBED_DIM, "dim_hidden": cfg.MODEL.CAPTION_DIM}
        options |= {"dim_word": cfg.MODEL.CAPTION_WORD_DIM, "max_len": cfg.MODEL.CAPTION_MAX_LEN}
    return options


def _bert_config(cfg: CfgNode, arrays: Tensors) -> dict:
    model = cfg.MODEL
    return {
        "vocab_size": arrays["bert.embeddings.words.weight"].shape[0],
        "hidden_size": model.BERT_DIM,
        "num_hidden_layers": model.BERT_LAYERS,
        "num_attention_heads": model.BERT_HEADS,
        "intermediate_size": model.BERT_INNER_DIM,
        "max_position_embeddings": model.BERT_POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": model.BERT_NORM_EPSILON,
        "hidden_dropout_prob": model.BERT_DROPOUT,
        "attention_probs_dropout_prob": model.BERT_ATTENTION_DROPOUT,
        "initializer_range": model.BERT_DEVIATION,
        "img_feature_dim": cfg.INPUT.IMG_FEATURE_DIM,
        "img_feature_type": "frcnn",
        "use_img_layernorm": int(model.IMG_LAYERNORM),
        "img_layer_norm_eps": model.IMG_LAYERNORM_EPSILON,
        "num_labels": cfg.OUTPUT.NUM_LABELS,
    }
