"""Check what must hold between several keys, and names that become folders."""

from collections.abc import Callable
from pathlib import PurePath
from typing import NoReturn

from config.families import FAMILIES, LOSSES, losses_of
from config.values import show, user_error

Values = dict[str, dict]  # section -> key -> value
Origins = dict[str, str]  # full key -> where its value was given
Refuse = Callable[..., NoReturn]  # (full key, what was expected, what came; by default the key's value)
IMAGE_METRICS = ("r1", "map_at_r", "r_precision")
VINVL_KEYS = (
    "INPUT.NUM_CAPTIONS_PER_IMAGE_TRN",
    "INPUT.NUM_CAPTIONS_PER_IMAGE_DEV",
    "EVAL.EVAL_IMG_KEYS_FILE",
)


def check_constraints(values: Values, origins: Origins) -> None:
    """Raise UserError unless `values` fit together; the error names a key and where its value was given."""

    def refuse(name: str, expected: str, came: object = None) -> NoReturn:
        section, key = name.split(".")
        got = show(values[section][key]) if came is None else came
        raise user_error(origins.get(name, "defaults"), f"{name}: expected {expected}, got {got}")

    for check in (
        _check_dataset,
        _check_kind,
        _check_pairs,
        _check_input,
        _check_model,
        _check_captioner,
        _check_schedule,
        _check_pictures,
        _check_classes,
        _check_crops,
        _check_query_bank,
        _check_save_name,
    ):
        check(values, refuse)


def _check_dataset(values: Values, refuse: Refuse) -> None:
    dataset = values["DATASET"]
    file_format = dataset["FORMAT"]
    if file_format in ("karpathy", "csv", "json") and not dataset["CAPTION_FILE"]:
        refuse("DATASET.FORMAT", f"DATASET.CAPTION_FILE with {file_format}", "none")
    if dataset["USE_RESTVAL"] and file_format != "karpathy":
        refuse("DATASET.USE_RESTVAL", "FORMAT karpathy", file_format)
    for name in ("TRAIN", "DEV", "TEST"):
        if not dataset[name]:
            refuse(f"DATASET.{name}", "the name of a split")
    for name in VINVL_KEYS:
        section, key = name.split(".")
        if file_format != "vinvl" and values[section][key]:
            refuse(name, "it with DATASET.FORMAT=vinvl alone", file_format)


def _check_input(values: Values, refuse: Refuse) -> None:
    inputs = values["INPUT"]
    marks = 2 if inputs["VOCAB_LAYOUT"] == "vsepp" else 1
    if 0 < inputs["MAX_SEQ_LEN"] <= marks:
        refuse("INPUT.MAX_SEQ_LEN", f"0 or more than {marks}, which start and end of a caption take")
    if len(set(inputs["VOCAB_SPLITS"])) < len(inputs["VOCAB_SPLITS"]):
        refuse("INPUT.VOCAB_SPLITS", "each split once")


def _check_model(values: Values, refuse: Refuse) -> None:
    model = values["MODEL"]
    if model["NAME"] == "vse":  # always one unidirectional LSTM: a setting without effect would mislead
        if model["NUM_LAYERS"] != 1:
            refuse("MODEL.NUM_LAYERS", "1 with vse")
        if model["BIDIRECTIONAL"]:
            refuse("MODEL.BIDIRECTIONAL", "false with vse")
        if model["TEXT_WINDOW"]:
            refuse("MODEL.TEXT_WINDOW", "0 with vse")
    if model["TEXT_WINDOW"]:  # in place of the GRU: the same holds for the GRU's settings
        if model["TEXT_WINDOW"] % 2 == 0:
            refuse("MODEL.TEXT_WINDOW", "an odd number of words, or 0")
        for key, without in (("NUM_LAYERS", 1), ("BIDIRECTIONAL", False), ("TEXT_POOLING", "last")):
            if model[key] != without:
                refuse(f"MODEL.{key}", f"{str(without).lower()} with MODEL.TEXT_WINDOW")
    if model["NAME"] == "vsrn" and model["DIRECTION_DIM"] and values["INPUT"]["IMG_FEATURE_DIM"] < 6:
        refuse("MODEL.DIRECTION_DIM", "0 with features of fewer than six columns, which hold no box terms")


def _check_kind(values: Values, refuse: Refuse) -> None:
    """Refuse a loss, or a way of making batches, that belongs to another kind of model."""
    name, loss, optimization = values["MODEL"]["NAME"], values["LOSS"]["NAME"], values["OPTIMIZATION"]
    kind = FAMILIES[name].kind
    if LOSSES[loss].kind != kind:
        own = losses_of(kind)
        listed = " or ".join(own) if len(own) == 2 else f"one of {', '.join(own)}"
        refuse("LOSS.NAME", f"{listed} with {name}", loss)
    _check_queue(values["LOSS"], name, refuse)
    if kind != "cross":
        if values["LOSS"]["WORD_WEIGHT"]:
            refuse("LOSS.WORD_WEIGHT", f"0 with {name}, which predicts no words")
        return
    if optimization["BATCHING"] == "same_length":
        refuse("OPTIMIZATION.BATCHING", f"random or bucket with {name}", "same_length")
    for together in ("CAPTIONS_TOGETHER", "IMAGES_TOGETHER"):
        if optimization[together] > 1:
            refuse(f"OPTIMIZATION.{together}", f"1 with {name}, whose negative pairs NEGATIVES chooses")


def _check_queue(loss: dict, model: str, refuse: Refuse) -> None:
    if loss["QUEUE_SIZE"] and FAMILIES[model].kind != "dual":
        refuse("LOSS.QUEUE_SIZE", f"0 with {model}, which has no such queue")
    if loss["QUEUE_SIZE"] and not loss["CROSS_RANK_NEGATIVES"]:
        refuse("LOSS.QUEUE_SIZE", "LOSS.CROSS_RANK_NEGATIVES=true with a queue, which processes share")


def _check_pairs(values: Values, refuse: Refuse) -> None:
    """Check what must hold for a cross encoder alone."""
    model = values["MODEL"]
    name, positions, dim = model["NAME"], model["BERT_POSITIONS"], model["BERT_DIM"]
    if FAMILIES[name].kind != "cross":
        return
    if not 3 <= values["INPUT"]["MAX_SEQ_LEN"] <= positions:
        refuse("INPUT.MAX_SEQ_LEN", f"3 to {positions} tokens (MODEL.BERT_POSITIONS) with {name}")
    if dim % model["BERT_HEADS"]:
        refuse("MODEL.BERT_HEADS", f"a divisor of MODEL.BERT_DIM ({dim})")
    labels, loss = values["OUTPUT"]["NUM_LABELS"], values["LOSS"]["NAME"]
    expected = {"match_cross_entropy": 2, "match_regression": 1}.get(loss, labels)
    if labels != expected:
        refuse("OUTPUT.NUM_LABELS", f"{expected} with LOSS.NAME={loss}")
    if values["INPUT"]["VOCAB_SPLITS"]:
        refuse("INPUT.VOCAB_SPLITS", f"[] with {name}, whose words are those of the training split")
    _check_negatives(values, refuse)
    _check_candidates(values, refuse)


def _check_negatives(values: Values, refuse: Refuse) -> None:
    kind, dual = values["NEGATIVES"]["KIND"], values["NEGATIVES"]["DUAL"]
    if bool(dual) != (kind == "mined"):
        expected = "a dual encoder's checkpoint with NEGATIVES.KIND=mined, and none otherwise"
        refuse("NEGATIVES.DUAL", expected, f"{show(dual)} with {kind}")
    if kind == "batch" and values["NEGATIVES"]["COUNT"] > 1:
        refuse("NEGATIVES.COUNT", "1 with NEGATIVES.KIND=batch, which takes the hardest")
    if kind == "batch" and values["MISC"]["NUM_WORKERS"]:
        expected = "0 with NEGATIVES.KIND=batch, which scores each batch when its step comes"
        refuse("MISC.NUM_WORKERS", expected)


def _check_candidates(values: Values, refuse: Refuse) -> None:
    all_pairs, index = values["EVAL"]["EVAL_CROSS_IMAGE"], values["EVAL"]["EVAL_CAPTION_INDEX_FILE"]
    if all_pairs == bool(index):
        expected = "true, or false with candidates in EVAL.EVAL_CAPTION_INDEX_FILE"
        refuse("EVAL.EVAL_CROSS_IMAGE", expected, f"{show(all_pairs)} and {show(index)}")
    if index and values["MONITOR"]["DEV_IMAGES"]:
        refuse("MONITOR.DEV_IMAGES", "0 with EVAL.EVAL_CAPTION_INDEX_FILE, which lists images itself")


def _check_captioner(values: Values, refuse: Refuse) -> None:
    layout = values["INPUT"]["VOCAB_LAYOUT"]
    if values["MODEL"]["NAME"] == "vsrn" and values["LOSS"]["CAPTION_WEIGHT"] and layout != "vsepp":
        expected = "vsepp, whose <start> the caption decoder of vsrn needs"
        refuse("INPUT.VOCAB_LAYOUT", expected, f"{layout}; set it, or LOSS.CAPTION_WEIGHT=0")


def _check_schedule(values: Values, refuse: Refuse) -> None:
    optimization, monitor = values["OPTIMIZATION"], values["MONITOR"]
    milestones = optimization["LR_MILESTONES"]
    if any(earlier >= later for earlier, later in zip(milestones, milestones[1:], strict=False)):
        refuse("OPTIMIZATION.LR_MILESTONES", "rising epochs")
    if optimization["LR_SCHEDULER"] == "multistep" and not milestones:
        refuse("OPTIMIZATION.LR_SCHEDULER", "OPTIMIZATION.LR_MILESTONES with multistep", "[]")
    if optimization["EARLY_STOPPING"] and not (monitor["EVAL_FREQ"] or monitor["EVAL_STEP"]):
        came = "MONITOR.EVAL_FREQ=0 and MONITOR.EVAL_STEP=0"
        refuse("OPTIMIZATION.EARLY_STOPPING", "validations to count", came)


def _check_save_name(values: Values, refuse: Refuse) -> None:
    name = values["OUTPUT"]["SAVE_NAME"]
    path = PurePath(name)
    plain = name.strip() and name.isprintable() and "\\" not in name
    if not plain or path.is_absolute() or ".." in path.parts or not path.parts:
        refuse("OUTPUT.SAVE_NAME", 'the name of a folder inside OUTPUT.CHECKPOINT_DIR (no "..")')


def _check_pictures(values: Values, refuse: Refuse) -> None:
    """Check what must hold for a model with a CNN, and for one that is measured by classes alone."""
    model, name = values["MODEL"], values["MODEL"]["NAME"]
    image_only, metric = FAMILIES[name].kind == "image", values["MONITOR"]["BEST_METRIC"]
    if image_only and not model["CNN"]:
        refuse("MODEL.CNN", f"a network such as resnet50 with {name}")
    if model["CNN"] and not FAMILIES[name].takes_pictures:
        refuse("MODEL.CNN", f'"" with {name}, which takes regions from a file')
    if model["CNN"] and not values["DATASET"]["IMAGE_DIR"]:
        refuse("DATASET.IMAGE_DIR", "the folder of the pictures with MODEL.CNN")
    if image_only != (metric in IMAGE_METRICS):
        metrics = f"one of {', '.join(IMAGE_METRICS)}" if image_only else "rsum or mean_recall"
        refuse("MONITOR.BEST_METRIC", f"{metrics} with {name}")
    if image_only and values["EVAL"]["FOLDS"] > 1:
        refuse("EVAL.FOLDS", f"1 with {name}")
    if model["CNN"] and values["INPUT"]["STANDARDIZE"]:
        refuse("INPUT.STANDARDIZE", "false with MODEL.CNN, whose features are learned")


def _check_query_bank(values: Values, refuse: Refuse) -> None:
    bank, name = values["EVAL"]["QUERY_BANK"], values["MODEL"]["NAME"]
    if bank and FAMILIES[name].kind != "dual":
        refuse("EVAL.QUERY_BANK", f'"" with {name}, which is no dual encoder')
    if bank == values["EVAL"]["SPLIT"]:
        refuse(
            "EVAL.QUERY_BANK",
            f"another split than EVAL.SPLIT, whose queries are ranked, such as "
            f"{'dev' if bank == 'train' else 'train'}",
        )


def _check_classes(values: Values, refuse: Refuse) -> None:
    """Check that a metric-learning loss gets the batches of classes that it needs."""
    name, each = values["LOSS"]["NAME"], values["OPTIMIZATION"]["SAMPLES_PER_CLASS"]
    size = values["OPTIMIZATION"]["BATCH_SIZE"]
    if FAMILIES[values["MODEL"]["NAME"]].kind != "image":
        return
    if name == "triplet":
        if size % 3:
            refuse("OPTIMIZATION.BATCH_SIZE", "a multiple of 3 with triplets")
        return
    if name != "softmax" and each < 2:
        refuse("OPTIMIZATION.SAMPLES_PER_CLASS", f"2 or more with LOSS.NAME={name}")
    if each and (size % each or size == each):
        refuse("OPTIMIZATION.BATCH_SIZE", f"a multiple of SAMPLES_PER_CLASS ({each}), of two classes or more")
    if each == 1:
        refuse("OPTIMIZATION.SAMPLES_PER_CLASS", "0, or 2 and more")


def _check_crops(values: Values, refuse: Refuse) -> None:
    """Check the sizes to which pictures are cropped, and what may happen to unreadable pictures."""
    inputs = values["INPUT"]
    if inputs["RESIZE"] < inputs["CROP_SIZE"]:
        refuse("INPUT.RESIZE", f"at least INPUT.CROP_SIZE ({inputs['CROP_SIZE']})")
    if inputs["CROP_AREA"][0] > inputs["CROP_AREA"][1]:
        refuse("INPUT.CROP_AREA", "the least share before the largest")
    if inputs["UNREADABLE"] == "skip" and FAMILIES[values["MODEL"]["NAME"]].kind != "image":
        refuse("INPUT.UNREADABLE", "refuse where pictures have captions")
