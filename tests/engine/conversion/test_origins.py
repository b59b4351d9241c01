"""Whose checkpoint a file is shows in its tensors, whatever wraps them."""

import numpy as np
import paddle
import pytest

from config.errors import UserError
from engine.conversion.conversion import Conversion, Given
from engine.conversion.native import native_layout
from engine.conversion.recognise import holds_cnn, open_source, recognise
from engine.conversion.rules import converted
from engine.conversion.run import configuration
from engine.conversion.torch_writer import write_torch_file
from engine.weights.stored import StoredTensor, stored
from engine.weights.tensors import layer_tensors
from models.build import build_model
from models.cnn import Cnn
from tests.checkpoints import (
    gru,
    options,
    random_tensors,
    vsepp_options,
    vsepp_parts,
    word_names,
    write_vocabulary,
)


@pytest.fixture
def convert(tmp_path):
    """Return a function that converts content of torch, and returns its tensors and the configuration too."""
    given = Given(write_vocabulary(tmp_path / "v.json", word_names(9)))

    def convert(content: object, **more: object) -> tuple[Conversion, dict[str, np.ndarray], object]:
        path = tmp_path / "a.pth.tar"
        write_torch_file(path, content)
        own = Given(given.vocabulary, **more)
        conversion = recognise(path, open_source(path), own)
        tensors = {rule.ours: converted(rule, conversion.tensors, path).load() for rule in conversion.rules}
        return conversion, tensors, configuration(conversion, own, tmp_path / "run")

    return convert


def fits(cfg: object, tensors: dict[str, np.ndarray], words: int = 9) -> bool:
    """Tell whether the tensors are those of the configured model."""
    shapes = {name: list(tensor.shape) for name, tensor in layer_tensors(build_model(cfg, words)).items()}
    return shapes == {name: list(array.shape) for name, array in tensors.items()}


def prefixed(parts: list[dict], *prefixes: str) -> list[dict]:
    return [
        {f"{prefix}{name}": tensor for name, tensor in part.items()}
        for prefix, part in zip(prefixes, parts, strict=True)
    ]


@pytest.mark.parametrize("prefixes", [("", ""), ("module.", ""), ("model.module.", "teacher.")])
def test_prefixes_that_all_tensors_share_are_taken_off(convert, prefixes):
    parts = vsepp_parts()
    _, tensors, cfg = convert({"model": prefixed(parts, *prefixes), "opt": vsepp_options()})
    assert fits(cfg, tensors)
    np.testing.assert_array_equal(tensors["image_encoder.fc.weight"], parts[0]["fc.weight"].load().T)


def test_one_state_dict_of_both_encoders(convert):
    image, text = vsepp_parts()
    whole = {f"module.img_enc.{name}": tensor for name, tensor in image.items()}
    whole |= {f"module.txt_enc.{name}": tensor for name, tensor in text.items()}
    _, tensors, cfg = convert({"state_dict": whole, "opt": vsepp_options()})
    assert fits(cfg, tensors)


def test_options_set_the_configuration(convert):
    stored_options = vsepp_options(
        measure="order", use_abs=True, margin=0.05, max_violation=True, grad_clip=0
    )
    stored_options |= {"learning_rate": 1e-3, "batch_size": 64, "lr_update": 10, "data_name": "f30k_precomp"}
    _, _, cfg = convert({"model": vsepp_parts(), "opt": stored_options})
    assert (cfg.MODEL.MEASURE, cfg.MODEL.USE_ABS, cfg.MODEL.NO_IMGNORM) == ("order", True, False)
    assert (cfg.LOSS.MARGIN, cfg.LOSS.HARD_NEGATIVE, cfg.OPTIMIZATION.LR) == (0.05, True, 1e-3)
    assert (cfg.OPTIMIZATION.BATCH_SIZE, cfg.OPTIMIZATION.LR_STEP_EPOCHS) == (64, 10)
    assert (cfg.DATASET.NAME, cfg.OPTIMIZATION.CLIP_MAX_NORM) == (
        "f30k_precomp",
        2.0,
    )  # 0 is no bound of ours


@pytest.mark.parametrize("norm", ["weight", "weight norm of the matrix", "weight norm of rows"])
def test_towers_of_scan_start_a_vsepp_and_its_attention_is_said_not_to_be_ours(convert, norm):
    image = random_tensors({"fc.weight": (5, 6), "fc.bias": (5,)})
    matrix = image["fc.weight"].load()
    if norm != "weight":
        length = np.array(3.0, "f4") if "matrix" in norm else np.arange(1, 6, dtype="f4")[:, None]
        image = {
            "fc.weight_g": stored(length),
            "fc.weight_v": image["fc.weight"],
            "fc.bias": image["fc.bias"],
        }
        axis = None if "matrix" in norm else 1
        matrix = length * matrix / np.sqrt((matrix**2).sum(axis=axis, keepdims=True))
    text = random_tensors({"embed.weight": (9, 4), **gru("rnn", 4, 5, ("l0", "l0_reverse"))})
    opt = options(cross_attn="t2i", bi_gru=True, embed_size=5, word_dim=4, img_dim=6, margin=0.2)
    conversion, tensors, cfg = convert({"model": [image, text], "opt": opt})
    assert conversion.origin == "SCAN" and "which is not ours" in conversion.notes[0]
    assert (cfg.MODEL.NAME, cfg.MODEL.BIDIRECTIONAL, cfg.MODEL.TEXT_POOLING) == ("vsepp", True, "mean")
    assert fits(cfg, tensors)
    np.testing.assert_allclose(tensors["image_encoder.fc.weight"], matrix.T, rtol=1e-6)


def torch_cnn(network: str, old: bool) -> dict[str, StoredTensor]:
    """Return random tensors of a CNN as VSE++ stores them, with DataParallel around what it wraps."""
    found = {}
    random = np.random.default_rng(0)
    for name, tensor in layer_tensors(Cnn(network).network).items():
        shape = tuple(tensor.shape)
        shape = shape[::-1] if len(shape) == 2 else shape
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        if network.startswith("vgg"):
            name = name.replace("features.", "features.module.")
            if old:  # torchvision before 0.2 began the classifier with dropout
                name = name.replace("classifier.3.", "classifier.4.").replace(
                    "classifier.0.", "classifier.1."
                )
        else:
            name = f"module.{name}"
        found[f"cnn.{name}"] = stored(random.normal(size=shape).astype("f4"))
        if name.endswith("running_var") and not old:
            counter = name.replace("running_var", "num_batches_tracked")
            found[f"cnn.{counter}"] = stored(np.array(7, dtype=np.int64))
    return found


@pytest.mark.parametrize("old", [False, True])
def test_a_vsepp_with_its_cnn(convert, old):
    cnn, (image, text) = torch_cnn("resnet18", old), vsepp_parts()
    image = random_tensors({"fc.weight": (5, 512), "fc.bias": (5,)}) | cnn
    content = {
        "model": [image, text],
        "opt": vsepp_options(cnn_type="resnet18", img_dim=4096, finetune=False),
    }
    conversion, tensors, cfg = convert(content)
    assert (cfg.MODEL.CNN, cfg.INPUT.CROP_SIZE, cfg.MODEL.CNN_FREEZE_EPOCHS) == ("resnet18", 224, -1)
    assert any("DATASET.IMAGE_DIR=images is a guess" in note for note in conversion.notes)
    assert fits(cfg, tensors)
    expected = cnn["cnn.module.layer4.1.conv2.weight"].load()
    np.testing.assert_array_equal(tensors["image_encoder.cnn.network.layer4.1.conv2.weight"], expected)
    if not old:
        assert conversion.left_out["img.cnn.module.bn1.num_batches_tracked"] == 7
    with pytest.raises(UserError, match="its options say cnn_type='resnet152', but its tensors 'resnet18'"):
        convert(content | {"opt": vsepp_options(cnn_type="resnet152")})


def names_of_vgg(old: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of VGG19's tensors as VSE++ stores them."""
    widths, number, before, shapes = [64, 64, 128, 128, *[256] * 4, *[512] * 8], 0, 3, {}
    pools = {2, 4, 8, 12}
    for layer, width in enumerate(widths):
        number += 1 if layer in pools else 0
        shapes[f"cnn.features.module.{number}.weight"] = (width, before, 3, 3)
        shapes[f"cnn.features.module.{number}.bias"] = (width,)
        number, before = number + 2, width
    first, second = ("1", "4") if old else ("0", "3")
    shapes |= {f"cnn.classifier.{first}.weight": (4096, 25088), f"cnn.classifier.{first}.bias": (4096,)}
    shapes |= {f"cnn.classifier.{second}.weight": (4096, 4096), f"cnn.classifier.{second}.bias": (4096,)}
    return shapes


@pytest.mark.parametrize("old", [False, True])
def test_the_names_of_vgg_in_a_vsepp(old, tmp_path):
    from engine.conversion.origins.cnn import cnn_rules, original_cnn_names, recognise_cnn

    shapes = {f"img.{name}": shape for name, shape in names_of_vgg(old).items()}
    tensors = {name: StoredTensor(shape, "float32", lambda: None) for name, shape in shapes.items()}
    names = original_cnn_names(tensors, "img.cnn.")
    plain = {name: tensors[full] for name, full in names.items()}
    assert recognise_cnn(tmp_path, plain, "") == "vgg19"
    rules, expected = cnn_rules(tmp_path, "vgg19", names, "image_encoder.cnn.network.")
    assert expected == shapes and len(rules) == len(shapes)


RESNET = paddle.vision.models.resnet18


@pytest.mark.parametrize(
    "wrap", ["module.", "model.", "_layers.", "backbone.", "module.backbone.", "teacher."]
)
def test_a_network_under_a_wrapper_s_names(tmp_path, wrap):
    state = {f"{wrap}{name}": tensor for name, tensor in RESNET().state_dict().items()}
    if wrap == "teacher.":
        state |= {name.replace("teacher.", "student."): tensor * 2 for name, tensor in state.items()}
    paddle.save(state, str(tmp_path / "a.pdparams"))
    content = open_source(tmp_path / "a.pdparams")
    assert holds_cnn(content)
    conversion = recognise(tmp_path / "a.pdparams", content, Given())
    assert conversion.origin == "CNN (resnet18)"
    (rule,) = [rule for rule in conversion.rules if rule.ours == "cnn.network.conv1.weight"]
    found = converted(rule, conversion.tensors, tmp_path).load()
    np.testing.assert_array_equal(found, state[f"{wrap}conv1.weight"].numpy())


@pytest.mark.parametrize("entry", ["state_dict", "model", "net", "anything"])
def test_a_state_dict_inside_a_dict(tmp_path, entry):
    paddle.save({entry: RESNET().state_dict(), "epoch": 3}, str(tmp_path / "a.pdparams"))
    content = open_source(tmp_path / "a.pdparams")
    assert recognise(tmp_path / "a.pdparams", content, Given()).origin == "CNN (resnet18)"


def test_bfloat16_of_paddle_is_widened(tmp_path):
    state = RESNET().state_dict()
    paddle.save(
        {name: tensor.astype("bfloat16") for name, tensor in state.items()}, str(tmp_path / "a.pdparams")
    )
    conversion = recognise(tmp_path / "a.pdparams", open_source(tmp_path / "a.pdparams"), Given())
    for rule in conversion.rules:
        found = converted(rule, conversion.tensors, tmp_path).load()
        own = rule.ours.removeprefix("cnn.network.")
        expected = state[own].astype("bfloat16").astype("float32").numpy()
        np.testing.assert_array_equal(found, expected)


def test_a_network_that_is_not_known_is_asked_for_with_one_of_its_names(tmp_path):
    write_torch_file(
        tmp_path / "a.pth", random_tensors({"conv1.weight": (2, 3, 1, 1), "layer9.weight": (2,)})
    )
    with pytest.raises(
        UserError, match="say which with --network NAME; it holds conv1.weight, layer9.weight$"
    ):
        recognise(tmp_path / "a.pth", open_source(tmp_path / "a.pth"), Given())


def test_an_efficientnet_of_torch_whose_names_are_private(tmp_path):
    network, stored_names = Cnn("efficientnet_lite0").network, {}
    random = np.random.default_rng(0)
    for name, tensor in layer_tensors(network).items():
        private = ".".join(f"_{part}" if not part.isdigit() else part for part in name.split(".")[:-1])
        kind = {"_mean": "running_mean", "_variance": "running_var"}
        last = name.rpartition(".")[2]
        array = random.normal(size=tensor.shape).astype("f4")
        stored_names[f"{private}.{kind.get(last, last)}"] = stored(array)
    stored_names["_fc.weight"] = stored(np.zeros((3, 1280), "f4"))
    write_torch_file(tmp_path / "a.pth", stored_names)
    conversion = recognise(
        tmp_path / "a.pth", open_source(tmp_path / "a.pth"), Given(network="efficientnet_lite0")
    )
    assert {rule.ours for rule in conversion.rules} == {f"cnn.network.{n}" for n in layer_tensors(network)}
    assert list(conversion.left_out) == ["_fc.weight"]
    arrays = {
        f"cnn.network.{name}": stored(tensor.numpy()) for name, tensor in layer_tensors(network).items()
    }
    cfg = configuration(conversion, Given(), tmp_path / "run")
    back = native_layout(cfg, arrays)  # of a run that was trained on, whose conversion is not known any more
    assert {row["name"] for row in back["original"]} == stored_names.keys() - {"_fc.weight"}
