"""What must hold between several keys, and of names that become folders."""

from pathlib import PurePath
from typing import NoReturn

from config.families import FAMILIES, LOSSES, losses_of
from config.values import show, user_error

Values = dict[str, dict]  # section -> key -> value
Origins = dict[str, str]  # full key -> where its value was given
IMAGE_METRICS = ("r1", "map_at_r", "r_precision")
VINVL_KEYS = (
    ("INPUT", "NUM_CAPTIONS_PER_IMAGE_TRN"),
    ("INPUT", "NUM_CAPTIONS_PER_IMAGE_DEV"),
    ("EVAL", "EVAL_IMG_KEYS_FILE"),
)


def check_constraints(values: Values, origins: Origins) -> None:
    """Raise UserError, naming the key and where its value came from, unless `values` fit together."""
    _check_dataset(values, origins)
    _check_kind(values, origins)
    _check_pairs(values, origins)
    _check_input(values, origins)
    _check_model(values["MODEL"], origins)
    _check_captioner(values, origins)
    _check_schedule(values, origins)
    _check_pictures(values, origins)
    _check_classes(values, origins)
    _check_crops(values, origins)
    _check_save_name(values["OUTPUT"]["SAVE_NAME"], origins)


def _refuse(name: str, origins: Origins, problem: str) -> NoReturn:
    raise user_error(origins.get(name, "defaults"), f"{name}: {problem}")


def _refuse_value(name: str, values: Values, origins: Origins, expected: str) -> NoReturn:
    section, key = name.split(".")
    _refuse(name, origins, f"expected {expected}, got {show(values[section][key])}")


def _check_dataset(values: Values, origins: Origins) -> None:
    dataset = values["DATASET"]
    if dataset["FORMAT"] in ("karpathy", "csv", "json") and not dataset["CAPTION_FILE"]:
        _refuse(
            "DATASET.FORMAT", origins, f"expected DATASET.CAPTION_FILE with {dataset['FORMAT']}, got none"
        )
    if dataset["USE_RESTVAL"] and dataset["FORMAT"] != "karpathy":
        _refuse("DATASET.USE_RESTVAL", origins, f"expected FORMAT karpathy, got {dataset['FORMAT']}")
    for name in ("TRAIN", "DEV", "TEST"):
        if not dataset[name]:
            _refuse(f"DATASET.{name}", origins, 'expected the name of a split, got ""')
    if dataset["FORMAT"] != "vinvl":
        for section, name in VINVL_KEYS:
            if values[section][name]:
                problem = f"expected it with DATASET.FORMAT=vinvl alone, got {dataset['FORMAT']}"
                _refuse(f"{section}.{name}", origins, problem)


def _check_input(values: Values, origins: Origins) -> None:
    inputs = values["INPUT"]
    marks = 2 if inputs["VOCAB_LAYOUT"] == "vsepp" else 1
    if 0 < inputs["MAX_SEQ_LEN"] <= marks:
        problem = f"expected 0 or more than {marks}, which start and end of a caption take, got "
        _refuse("INPUT.MAX_SEQ_LEN", origins, problem + show(inputs["MAX_SEQ_LEN"]))
    splits = inputs["VOCAB_SPLITS"]
    if len(set(splits)) < len(splits):
        _refuse("INPUT.VOCAB_SPLITS", origins, f"expected each split once, got {show(splits)}")


def _check_model(model: dict, origins: Origins) -> None:
    if model["NAME"] == "vse":  # an LSTM of one layer; a setting that changes nothing would mislead
        if model["NUM_LAYERS"] != 1:
            _refuse("MODEL.NUM_LAYERS", origins, f"expected 1 with vse, got {model['NUM_LAYERS']}")
        if model["BIDIRECTIONAL"]:
            _refuse("MODEL.BIDIRECTIONAL", origins, "expected false with vse, got true")


def _check_kind(values: Values, origins: Origins) -> None:
    """A loss belongs to one kind of model, and so do the ways of making a batch."""
    name, loss, optimization = values["MODEL"]["NAME"], values["LOSS"]["NAME"], values["OPTIMIZATION"]
    kind = FAMILIES[name].kind
    if LOSSES[loss].kind != kind:
        own = losses_of(kind)
        listed = " or ".join(own) if len(own) == 2 else f"one of {', '.join(own)}"
        _refuse("LOSS.NAME", origins, f"expected {listed} with {name}, got {loss}")
    _check_queue(values["LOSS"], name, origins)
    if kind != "cross":
        if values["LOSS"]["WORD_WEIGHT"]:
            problem = f"expected 0 with {name}, which guesses no words, got {values['LOSS']['WORD_WEIGHT']}"
            _refuse("LOSS.WORD_WEIGHT", origins, problem)
        return
    if optimization["BATCHING"] == "same_length":
        _refuse("OPTIMIZATION.BATCHING", origins, f"expected random or bucket with {name}, got same_length")
    for together in ("CAPTIONS_TOGETHER", "IMAGES_TOGETHER"):
        if optimization[together] > 1:
            problem = (
                f"expected 1 with {name}, whose wrong pairs NEGATIVES chooses, got {optimization[together]}"
            )
            _refuse(f"OPTIMIZATION.{together}", origins, problem)


def _check_queue(loss: dict, model: str, origins: Origins) -> None:
    size = loss["QUEUE_SIZE"]
    if size and FAMILIES[model].kind != "dual":
        _refuse("LOSS.QUEUE_SIZE", origins, f"expected 0 with {model}, which has no such queue, got {size}")
    if size and not loss["CROSS_RANK_NEGATIVES"]:
        problem = f"expected LOSS.CROSS_RANK_NEGATIVES=true with a queue, which processes share, got {size}"
        _refuse("LOSS.QUEUE_SIZE", origins, problem)


def _check_pairs(values: Values, origins: Origins) -> None:
    """What must hold for a model of pairs alone."""
    model, length = values["MODEL"], values["INPUT"]["MAX_SEQ_LEN"]
    if FAMILIES[model["NAME"]].kind != "cross":
        return
    if not 3 <= length <= model["BERT_POSITIONS"]:
        problem = (
            f"expected 3 to {model['BERT_POSITIONS']} tokens (MODEL.BERT_POSITIONS) with {model['NAME']}"
        )
        _refuse("INPUT.MAX_SEQ_LEN", origins, f"{problem}, got {length}")
    if model["BERT_DIM"] % model["BERT_HEADS"]:
        problem = f"expected a divisor of MODEL.BERT_DIM ({model['BERT_DIM']}), got {model['BERT_HEADS']}"
        _refuse("MODEL.BERT_HEADS", origins, problem)
    labels, loss = values["OUTPUT"]["NUM_LABELS"], values["LOSS"]["NAME"]
    expected = {"match_cross_entropy": 2, "match_regression": 1}.get(loss, labels)
    if labels != expected:
        _refuse("OUTPUT.NUM_LABELS", origins, f"expected {expected} with LOSS.NAME={loss}, got {labels}")
    if values["INPUT"]["VOCAB_SPLITS"]:
        problem = f"expected [] with {model['NAME']}, whose words are those of the training split, got "
        _refuse("INPUT.VOCAB_SPLITS", origins, problem + show(values["INPUT"]["VOCAB_SPLITS"]))
    _check_negatives(values, origins)
    _check_candidates(values, origins)


def _check_negatives(values: Values, origins: Origins) -> None:
    kind, dual = values["NEGATIVES"]["KIND"], values["NEGATIVES"]["DUAL"]
    if bool(dual) != (kind == "mined"):
        problem = "expected a dual encoder's checkpoint with NEGATIVES.KIND=mined, and none otherwise"
        _refuse("NEGATIVES.DUAL", origins, f"{problem}, got {show(dual)} with {kind}")
    count = values["NEGATIVES"]["COUNT"]
    if kind == "batch" and count > 1:
        problem = "expected 1 with NEGATIVES.KIND=batch, which takes the hardest"
        _refuse("NEGATIVES.COUNT", origins, f"{problem}, got {count}")
    workers = values["MISC"]["NUM_WORKERS"]
    if kind == "batch" and workers:
        problem = "expected 0 with NEGATIVES.KIND=batch, which scores each batch when its step comes"
        _refuse("MISC.NUM_WORKERS", origins, f"{problem}, got {workers}")


def _check_candidates(values: Values, origins: Origins) -> None:
    all_pairs, index = values["EVAL"]["EVAL_CROSS_IMAGE"], values["EVAL"]["EVAL_CAPTION_INDEX_FILE"]
    if all_pairs == bool(index):
        problem = "expected true, or false with candidates in EVAL.EVAL_CAPTION_INDEX_FILE"
        _refuse("EVAL.EVAL_CROSS_IMAGE", origins, f"{problem}, got {show(all_pairs)} and {show(index)}")
    if index and values["MONITOR"]["DEV_IMAGES"]:
        problem = "expected 0 with EVAL.EVAL_CAPTION_INDEX_FILE, which lists images itself"
        _refuse("MONITOR.DEV_IMAGES", origins, f"{problem}, got {values['MONITOR']['DEV_IMAGES']}")


def _check_captioner(values: Values, origins: Origins) -> None:
    layout = values["INPUT"]["VOCAB_LAYOUT"]
    if values["MODEL"]["NAME"] == "vsrn" and values["LOSS"]["CAPTION_WEIGHT"] and layout != "vsepp":
        problem = f"expected vsepp, whose <start> the caption decoder of vsrn needs, got {layout}"
        _refuse("INPUT.VOCAB_LAYOUT", origins, f"{problem}; set it, or LOSS.CAPTION_WEIGHT=0")


def _check_schedule(values: Values, origins: Origins) -> None:
    optimization, monitor = values["OPTIMIZATION"], values["MONITOR"]
    milestones = optimization["LR_MILESTONES"]
    if any(earlier >= later for earlier, later in zip(milestones, milestones[1:], strict=False)):
        _refuse("OPTIMIZATION.LR_MILESTONES", origins, f"expected rising epochs, got {show(milestones)}")
    if optimization["LR_SCHEDULER"] == "multistep" and not milestones:
        problem = "expected OPTIMIZATION.LR_MILESTONES with multistep, got []"
        _refuse("OPTIMIZATION.LR_SCHEDULER", origins, problem)
    if optimization["EARLY_STOPPING"] and not (monitor["EVAL_FREQ"] or monitor["EVAL_STEP"]):
        problem = "expected validations to count, got MONITOR.EVAL_FREQ=0 and MONITOR.EVAL_STEP=0"
        _refuse("OPTIMIZATION.EARLY_STOPPING", origins, problem)


def _check_save_name(name: str, origins: Origins) -> None:
    path = PurePath(name)
    plain = name.strip() and name.isprintable() and "\\" not in name
    if not plain or path.is_absolute() or ".." in path.parts or not path.parts:
        problem = f'expected the name of a folder inside OUTPUT.CHECKPOINT_DIR (no ".."), got {show(name)}'
        _refuse("OUTPUT.SAVE_NAME", origins, problem)


def _check_pictures(values: Values, origins: Origins) -> None:
    """What must hold where a CNN sees pictures, and where classes are all that is known of them."""
    model, name = values["MODEL"], values["MODEL"]["NAME"]
    image_only, metric = FAMILIES[name].kind == "image", values["MONITOR"]["BEST_METRIC"]
    if image_only and not model["CNN"]:
        _refuse_value("MODEL.CNN", values, origins, f"a network such as resnet50 with {name}")
    if model["CNN"] and not FAMILIES[name].takes_pictures:
        _refuse_value("MODEL.CNN", values, origins, f'"" with {name}, which takes regions from a file')
    if model["CNN"] and not values["DATASET"]["IMAGE_DIR"]:
        _refuse_value("DATASET.IMAGE_DIR", values, origins, "the folder of the pictures with MODEL.CNN")
    if image_only != (metric in IMAGE_METRICS):
        metrics = f"one of {', '.join(IMAGE_METRICS)}" if image_only else "rsum or mean_recall"
        _refuse_value("MONITOR.BEST_METRIC", values, origins, f"{metrics} with {name}")
    if image_only and values["EVAL"]["FOLDS"] > 1:
        _refuse_value("EVAL.FOLDS", values, origins, f"1 with {name}")
    if model["CNN"] and values["INPUT"]["STANDARDIZE"]:
        expected = "false with MODEL.CNN, whose features are learned"
        _refuse_value("INPUT.STANDARDIZE", values, origins, expected)


def _check_classes(values: Values, origins: Origins) -> None:
    """What must hold between a metric-learning loss and how a batch is made of classes."""
    name, each = values["LOSS"]["NAME"], values["OPTIMIZATION"]["SAMPLES_PER_CLASS"]
    size = values["OPTIMIZATION"]["BATCH_SIZE"]
    if FAMILIES[values["MODEL"]["NAME"]].kind != "image":
        return
    if name == "triplet":
        if size % 3:
            _refuse_value("OPTIMIZATION.BATCH_SIZE", values, origins, "a multiple of 3 with triplets")
        return
    if name != "softmax" and each < 2:
        expected = f"2 or more with LOSS.NAME={name}"
        _refuse_value("OPTIMIZATION.SAMPLES_PER_CLASS", values, origins, expected)
    if each and (size % each or size == each):
        expected = f"a multiple of SAMPLES_PER_CLASS ({each}), of two classes or more"
        _refuse_value("OPTIMIZATION.BATCH_SIZE", values, origins, expected)
    if each == 1:
        _refuse_value("OPTIMIZATION.SAMPLES_PER_CLASS", values, origins, "0, or 2 and more")


def _check_crops(values: Values, origins: Origins) -> None:
    """What must hold between the sizes to which pictures are cut, and of pictures that cannot be read."""
    inputs = values["INPUT"]
    if inputs["RESIZE"] < inputs["CROP_SIZE"]:
        expected = f"at least INPUT.CROP_SIZE ({inputs['CROP_SIZE']})"
        _refuse_value("INPUT.RESIZE", values, origins, expected)
    if inputs["CROP_AREA"][0] > inputs["CROP_AREA"][1]:
        _refuse_value("INPUT.CROP_AREA", values, origins, "the least share before the largest")
    if inputs["UNREADABLE"] == "skip" and FAMILIES[values["MODEL"]["NAME"]].kind != "image":
        _refuse_value("INPUT.UNREADABLE", values, origins, "refuse where pictures have captions")
