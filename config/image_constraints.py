"""What must hold between keys of models that see pictures."""

from config.families import CROSS_ENCODERS, IMAGE_ENCODERS, METRIC_LOSSES
from config.values import refusal, show

IMAGE_METRICS = ("r1", "map_at_r", "r_precision")
PIXEL_MODELS = ("vsepp", "vse", *IMAGE_ENCODERS)


def check_images(values: dict[str, dict], origins: dict[str, str]) -> None:
    """Raise UserError, naming the key and where its value came from, unless the keys of pictures fit."""
    for section, name, problem in (
        *_model_problems(values),
        *_class_problems(values),
        *_input_problems(values),
    ):
        full, value = f"{section}.{name}", values[section][name]
        raise refusal(origins.get(full, "defaults"), f"{full}: {problem}, got {show(value)}")


def _model_problems(values: dict[str, dict]) -> list[tuple[str, str, str]]:
    model, name = values["MODEL"], values["MODEL"]["NAME"]
    image_only, metric = name in IMAGE_ENCODERS, values["MONITOR"]["BEST_METRIC"]
    problems = []
    if image_only and not model["CNN"]:
        problems.append(("MODEL", "CNN", f"expected a network such as resnet50 with {name}"))
    if model["CNN"] and name not in PIXEL_MODELS:
        problems.append(("MODEL", "CNN", f'expected "" with {name}, which takes regions from a file'))
    if model["CNN"] and not values["DATASET"]["IMAGE_DIR"]:
        problems.append(("DATASET", "IMAGE_DIR", "expected the folder of the pictures with MODEL.CNN"))
    if image_only != (values["LOSS"]["NAME"] in METRIC_LOSSES) and name not in CROSS_ENCODERS:
        losses = ", ".join(METRIC_LOSSES)
        problems.append(("LOSS", "NAME", f"expected one of {losses} with cnn alone, here MODEL.NAME={name}"))
    if image_only != (metric in IMAGE_METRICS):
        with_cnn = f"one of {', '.join(IMAGE_METRICS)}" if image_only else "rsum or mean_recall"
        problems.append(("MONITOR", "BEST_METRIC", f"expected {with_cnn} with {name}"))
    if image_only and values["EVAL"]["FOLDS"] > 1:
        problems.append(("EVAL", "FOLDS", f"expected 1 with {name}"))
    if model["CNN"] and values["INPUT"]["STANDARDIZE"]:
        problems.append(("INPUT", "STANDARDIZE", "expected false with MODEL.CNN, whose features are learned"))
    return problems


def _class_problems(values: dict[str, dict]) -> list[tuple[str, str, str]]:
    """How a batch is made of classes."""
    name, each = values["LOSS"]["NAME"], values["OPTIMIZATION"]["SAMPLES_PER_CLASS"]
    size = values["OPTIMIZATION"]["BATCH_SIZE"]
    if values["MODEL"]["NAME"] not in IMAGE_ENCODERS:
        return []
    if name == "triplet":
        return [("OPTIMIZATION", "BATCH_SIZE", "expected a multiple of 3 with triplets")] if size % 3 else []
    needs_classes = name != "softmax"
    if needs_classes and each < 2:
        return [("OPTIMIZATION", "SAMPLES_PER_CLASS", f"expected 2 or more with LOSS.NAME={name}")]
    if each and (size % each or size == each):
        problem = f"expected a multiple of SAMPLES_PER_CLASS ({each}), of two classes or more"
        return [("OPTIMIZATION", "BATCH_SIZE", problem)]
    if each == 1:
        return [("OPTIMIZATION", "SAMPLES_PER_CLASS", "expected 0, or 2 and more")]
    return []


def _input_problems(values: dict[str, dict]) -> list[tuple[str, str, str]]:
    inputs, problems = values["INPUT"], []
    if inputs["RESIZE"] < inputs["CROP_SIZE"]:
        problems.append(("INPUT", "RESIZE", f"expected at least INPUT.CROP_SIZE ({inputs['CROP_SIZE']})"))
    if inputs["CROP_AREA"][0] > inputs["CROP_AREA"][1]:
        problems.append(("INPUT", "CROP_AREA", "expected the least share before the largest"))
    if inputs["UNREADABLE"] == "skip" and values["MODEL"]["NAME"] not in IMAGE_ENCODERS:
        problems.append(("INPUT", "UNREADABLE", "expected refuse where pictures have captions"))
    return problems
