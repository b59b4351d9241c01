"""VSE++ (fartashf/vsepp), from features or with its CNN, and the towers of SCAN (kuanghuei/SCAN)."""

import numpy as np

from config.errors import UserError
from engine.conversion.conversion import (
    Conversion,
    Given,
    Source,
    check_options,
    stored_settings,
    without_counters,
)
from engine.conversion.origins.cnn import cnn_rules, original_cnn_names, recognise_cnn
from engine.conversion.origins.dual import (
    TRAINING_KEYS,
    similarity_settings,
    text_settings,
    text_tensors,
    trained_vocabulary,
)
from engine.conversion.rules import check_tensors, linear, shape_of
from engine.weights.state_dicts import Tensors
from engine.weights.stored import StoredTensor

_SCAN_OPTIONS = ("cross_attn", "raw_feature_norm", "lambda_softmax")


def refuse_vse_infty(source: Source) -> None:
    """Raise UserError if the towers are those of vse_infty (woodfrog/vse_infty), which are not ours."""
    pools = [name for name in source.tensors if ".gpool." in name]
    if pools or any(name.startswith("img.mlp.") for name in source.tensors):
        raise UserError(
            f"{source.path}: a checkpoint of vse_infty, whose towers are not ours: they pool by a learned "
            f"weight for each rank ({(pools or ['img.mlp'])[0]}), and its image tower adds a perceptron: "
            "nothing was converted"
        )


def convert(source: Source, given: Given) -> Conversion:
    """Return the conversion of a VSE++, or of SCAN's towers into one.

    Raises UserError for tensors that do not belong together, and for what is neither stored nor given.
    """
    tensors, counters = without_counters(_plain_map(source.tensors))
    is_scan = any(name in source.options for name in _SCAN_OPTIONS) or "img.fc.weight_v" in source.tensors
    origin = "SCAN" if is_scan else "VSE++"
    expected, rules, sizes = text_tensors(source, origin)
    settings = ["MODEL.NAME=vsepp", *text_settings(sizes)]
    cnn = {name: tensor for name, tensor in tensors.items() if name.startswith("img.cnn.")}
    head = "image_encoder.head.fc" if cnn else "image_encoder.fc"
    _, features = shape_of(source.path, tensors, "img.fc.weight", 2, origin)
    expected |= {"img.fc.weight": (sizes["embed_size"], features), "img.fc.bias": (sizes["embed_size"],)}
    rules = [*linear("img.fc", head), *rules]
    if cnn:
        names = original_cnn_names(cnn, "img.cnn.")
        network = recognise_cnn(source.path, {name: cnn[full] for name, full in names.items()}, given.network)
        own, shapes = cnn_rules(source.path, network, names, "image_encoder.cnn.network.")
        expected |= shapes
        rules = [*own, *rules]
        settings += _picture_settings(source, given, network)
        check_options(source, {"cnn_type": network})
    else:
        settings.append(f"INPUT.IMG_FEATURE_DIM={features}")
        check_options(source, {"img_dim": features})
    check_tensors(source.path, tensors, expected, origin)
    check_options(source, {name: value for name, value in sizes.items() if name != "bi_gru"})
    notes = []
    if is_scan:
        settings += ["MODEL.TEXT_POOLING=mean", *stored_settings(source, TRAINING_KEYS)]
        notes.append(_of_scan(source))
    else:
        settings += [*similarity_settings(source, given), *stored_settings(source, TRAINING_KEYS)]
    words, said = trained_vocabulary(source, given, sizes["vocab_size"])
    settings.append(f"INPUT.TOKENIZER={words.tokenizer}")
    notes += said + (
        ["DATASET.IMAGE_DIR=images is a guess: set it to the folder of the pictures"] if cnn else []
    )
    return Conversion(origin, source, rules, tensors, settings, words, counters, notes=notes)


def _of_scan(source: Source) -> str:
    return (
        "SCAN compares each region with each word by cross attention "
        f"(cross_attn={str(source.options.get('cross_attn'))[:10]}), which is not ours: its two "
        "towers are converted as those of a vsepp that compares means of regions and of words, to start "
        "training from; results are not SCAN's"
    )


def _picture_settings(source: Source, given: Given, network: str) -> list[str]:
    crop = source.options.get("crop_size", 224)
    settings = [f"MODEL.CNN={network}"]
    if type(crop) is int:
        settings += [f"INPUT.CROP_SIZE={crop}", f"INPUT.RESIZE={max(256, crop)}"]
    if not given.sets("DATASET.IMAGE_DIR"):
        settings.append("DATASET.IMAGE_DIR=images")
    if source.options.get("finetune") is False:
        settings.append("MODEL.CNN_FREEZE_EPOCHS=-1")
    return settings


def _plain_map(tensors: Tensors) -> Tensors:
    """Return the tensors with SCAN's weight-normalised map, g v / |v|, as one matrix."""
    direction, length = tensors.get("img.fc.weight_v"), tensors.get("img.fc.weight_g")
    if direction is None or length is None:
        return tensors

    def load() -> np.ndarray:
        v, g = direction.read(), length.read()
        axis = None if g.size == 1 else 1  # one length for the matrix, or one a row
        return (g.reshape(-1, 1) * (v / np.sqrt((v * v).sum(axis=axis, keepdims=True)))).astype(np.float32)

    others = {name: tensor for name, tensor in tensors.items() if not name.startswith("img.fc.weight_")}
    return {"img.fc.weight": StoredTensor(direction.shape, "float32", load)} | others
