"""What must hold between several keys, and of names that become folders."""

from pathlib import PurePath
from typing import NoReturn

from config.families import CROSS_ENCODERS, DUAL_ENCODERS, METRIC_LOSSES
from config.image_constraints import check_images
from config.values import refusal, show

Values = dict[str, dict]  # section -> key -> value
Origins = dict[str, str]  # full key -> where its value was given
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
    check_images(values, origins)
    _check_save_name(values["OUTPUT"]["SAVE_NAME"], origins)


def _refuse(name: str, origins: Origins, problem: str) -> NoReturn:
    raise refusal(origins.get(name, "defaults"), f"{name}: {problem}")


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
    of_pairs = loss.startswith("match_")
    if name in CROSS_ENCODERS and not of_pairs:
        _refuse(
            "LOSS.NAME",
            origins,
            f"expected a loss of pairs, such as match_cross_entropy, with {name}, got {loss}",
        )
    if name in DUAL_ENCODERS and (of_pairs or loss in METRIC_LOSSES):
        _refuse("LOSS.NAME", origins, f"expected hinge or contrastive with {name}, got {loss}")
    _check_queue(values["LOSS"], name, origins)
    if name not in CROSS_ENCODERS:
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
    if size and model not in DUAL_ENCODERS:
        _refuse("LOSS.QUEUE_SIZE", origins, f"expected 0 with {model}, which has no such queue, got {size}")
    if size and not loss["CROSS_RANK_NEGATIVES"]:
        problem = f"expected LOSS.CROSS_RANK_NEGATIVES=true with a queue, which processes share, got {size}"
        _refuse("LOSS.QUEUE_SIZE", origins, problem)


def _check_pairs(values: Values, origins: Origins) -> None:
    """What must hold for a model of pairs alone."""
    model, length = values["MODEL"], values["INPUT"]["MAX_SEQ_LEN"]
    if model["NAME"] not in CROSS_ENCODERS:
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
