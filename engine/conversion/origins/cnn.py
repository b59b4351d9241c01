"""CNNs of torchvision and of Paddle's vision models, alone or as the image encoder of VSE++."""

import re
from pathlib import Path

from config.default import KEYS
from config.errors import UserError, some
from engine.conversion.conversion import Conversion, Given, Source, without_counters
from engine.conversion.rules import Rule, check_tensors
from engine.weights.state_dicts import Tensors
from engine.weights.stored import turned

_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
_VGGS = {13: "vgg16", 16: "vgg19"}  # by the number of convolutions
_HEADS = ("fc.", "classifier.")  # the classifiers that `Cnn` leaves out
OWN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc", "features", "classifier")


def is_cnn(tensors: Tensors) -> bool:
    """Tell whether the names are those of a network of torchvision's."""
    return "conv1.weight" in tensors or "features.0.weight" in tensors or "features.0.0.weight" in tensors


def network_names() -> list[str]:
    """Return the networks that MODEL.CNN may name."""
    return [str(name) for name in KEYS["MODEL"]["CNN"].choices if name]


def original_cnn_names(tensors: Tensors, prefix: str) -> dict[str, str]:
    """Return torchvision's name of each tensor of VSE++'s CNN, and the name that it has in the file.

    DataParallel wraps a whole ResNet, and of a VGG the features alone. torchvision before 0.2 began a VGG's
    classifier with dropout, so that its layers have other numbers.
    """
    names = {name.removeprefix(prefix).replace("module.", ""): name for name in tensors}
    if "classifier.4.weight" in names and "classifier.0.weight" not in names:
        older = {"classifier.1.": "classifier.0.", "classifier.4.": "classifier.3."}
        for old, new in older.items():
            names = {name.replace(old, new): full for name, full in names.items()}
    return names


def recognise_cnn(path: Path, tensors: Tensors, network: str) -> str:
    """Return the network that has tensors of these names: `network` if it is given.

    Raises UserError, which asks for --network, if it is none that is known.
    """
    if network:
        return network
    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{k}.")}) for k in range(1, 5))
    found = _RESNETS.get((blocks, "layer1.0.conv3.weight" in tensors), "")
    convolutions = [name for name in tensors if re.fullmatch(r"features\.\d+\.weight", name)]
    if convolutions and not any(name.endswith(("running_mean", "_mean")) for name in tensors):
        found = _VGGS.get(len(convolutions), "")
    if "features.18.0.weight" in tensors and "features.1.conv.0.0.weight" in tensors:
        found = "mobilenet_v2"
    if not found:
        raise UserError(
            f"{path}: a CNN, but not clearly one of {', '.join(network_names())}: say which with "
            f"--network NAME; it holds {some(list(tensors), 3)}"
        )
    return found


def cnn_rules(
    path: Path, network: str, names: dict[str, str], ours: str
) -> tuple[list[Rule], dict[str, tuple[int, ...]]]:
    """Return the rules and the expected shapes of a CNN; `names` are those of `original_cnn_names`.

    Paddle's names of statistics are taken too, and then its layout of linear layers. Raises UserError that
    names a tensor which is missing.
    """
    from engine.weights.tensors import layer_tensors
    from models.cnn import Cnn

    of_paddle = any(name.endswith("._mean") for name in names)
    rules, expected = [], {}
    tensors = layer_tensors(Cnn(network).network)
    theirs = {own: own if of_paddle else _torch_name(own) for own in tensors}
    missing = [name for name in theirs.values() if name not in names]
    if missing:
        raise UserError(
            f"{path}: no tensor {missing[0]} ({len(missing)} of {len(tensors)} are missing), which {network} "
            f"has; it holds {some(list(names), 3)}"
        )
    for own, tensor in tensors.items():
        shape, full = tuple(tensor.shape), names[theirs[own]]
        transposed = len(shape) == 2 and not of_paddle
        expected[full] = shape[::-1] if transposed else shape
        rules.append(Rule(f"{ours}{own}", (full,), transposed))
    return rules, expected


def convert(source: Source, given: Given) -> Conversion:
    """Return the conversion of a CNN into an image encoder, without its classifier.

    Raises UserError for tensors that are not those of one network.
    """
    tensors, counters = without_counters(source.tensors)
    names = {name: name for name in tensors}
    network = recognise_cnn(source.path, tensors, given.network)
    if _is_turned(tensors):  # a VGG of Paddle, whose names are torch's
        tensors = {
            name: turned(tensor) if len(tensor.shape) == 2 else tensor for name, tensor in tensors.items()
        }
    rules, expected = cnn_rules(source.path, network, names, "cnn.network.")
    heads = [name for name in tensors if name not in expected and name.startswith(_HEADS)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    check_tensors(source.path, tensors, expected, network)
    settings = ["MODEL.NAME=cnn", f"MODEL.CNN={network}", "LOSS.NAME=softmax", "MONITOR.BEST_METRIC=r1"]
    notes = []
    if not given.sets("DATASET.IMAGE_DIR"):
        settings.append("DATASET.IMAGE_DIR=images")
        notes.append("DATASET.IMAGE_DIR=images is a guess: set it to the folder of the pictures")
    left_out = counters | dict.fromkeys(heads)
    return Conversion(f"CNN ({network})", source, rules, tensors, settings, None, left_out, notes=notes)


def download(network: str) -> Path:
    """Return the file of `network` in Paddle's model zoo; it is downloaded once and kept by Paddle.

    Raises UserError if the zoo lacks it, or the download fails.
    """
    from paddle.utils.download import get_weights_path_from_url
    from paddle.vision.models import mobilenetv2, resnet, vgg

    urls = {**resnet.model_urls, **vgg.model_urls, "mobilenet_v2": mobilenetv2.model_urls["mobilenetv2_1.0"]}
    if network not in urls:
        known = ", ".join(name for name in network_names() if name in urls)
        raise UserError(f"--network: expected with zoo one of {known}, got {network or 'none'}")
    url, checksum = urls[network]
    try:
        return Path(get_weights_path_from_url(url, checksum))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {url} ({error}): get it where there is a network, and give the file as SRC"
        ) from error


def _torch_name(own: str) -> str:
    return own.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def _is_turned(tensors: Tensors) -> bool:
    """Tell whether a VGG's first linear map is [in,out], as Paddle has it."""
    first = tensors.get("classifier.0.weight")
    return first is not None and len(first.shape) == 2 and first.shape[0] > first.shape[1]
