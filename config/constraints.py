"""What must hold between several keys, and of names that become folders."""

from pathlib import PurePath
from typing import NoReturn

from config.values import refusal, show

Values = dict[str, dict]  # section -> key -> value
Origins = dict[str, str]  # full key -> where its value was given


def check_constraints(values: Values, origins: Origins) -> None:
    """Raise UserError, naming the key and where its value came from, unless `values` fit together."""
    _check_dataset(values, origins)
    _check_input(values, origins)
    _check_model(values["MODEL"], origins)
    _check_captioner(values, origins)
    _check_schedule(values, origins)
    _check_save_name(values["OUTPUT"]["SAVE_NAME"], origins)


def _refuse(name: str, origins: Origins, problem: str) -> NoReturn:
    raise refusal(origins.get(name, "defaults"), f"{name}: {problem}")


def _check_dataset(values: Values, origins: Origins) -> None:
    dataset = values["DATASET"]
    if dataset["FORMAT"] != "precomp" and not dataset["CAPTION_FILE"]:
        _refuse(
            "DATASET.FORMAT", origins, f"expected DATASET.CAPTION_FILE with {dataset['FORMAT']}, got none"
        )
    if dataset["USE_RESTVAL"] and dataset["FORMAT"] != "karpathy":
        _refuse("DATASET.USE_RESTVAL", origins, f"expected FORMAT karpathy, got {dataset['FORMAT']}")
    for name in ("TRAIN", "DEV", "TEST"):
        if not dataset[name]:
            _refuse(f"DATASET.{name}", origins, 'expected the name of a split, got ""')


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
