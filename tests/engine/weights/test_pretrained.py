"""An Oscar starts from a BERT's folder or from an Oscar's, strictly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from config.errors import UserError
from engine.weights.bert_names import original_names
from engine.weights.pretrained import load_pretrained, open_pretrained
from models.oscar import Oscar

CONFIG = {
    "vocab_size": 9,
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "max_position_embeddings": 7,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.2,
}


def originals(region_dim: int = 0, labels: int = 0) -> dict[str, np.ndarray]:
    """Return random weights in the original's layout, written out by hand."""
    shapes = {
        "embeddings.word_embeddings.weight": (9, 6),
        "embeddings.position_embeddings.weight": (7, 6),
        "embeddings.token_type_embeddings.weight": (2, 6),
        "embeddings.LayerNorm.weight": (6,),
        "embeddings.LayerNorm.bias": (6,),
        "pooler.dense.weight": (6, 6),
        "pooler.dense.bias": (6,),
    }
    for layer in range(2):
        linear = {f"attention.self.{part}": (6, 6) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (6, 6), "intermediate.dense": (10, 6), "output.dense": (6, 10)}
        for part, shape in linear.items():
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{part}.weight"] = (6,)
            shapes[f"encoder.layer.{layer}.{part}.bias"] = (6,)
    if region_dim:
        shapes |= {"img_embedding.weight": (6, region_dim), "img_embedding.bias": (6,)}
        shapes |= {"LayerNorm.weight": (6,), "LayerNorm.bias": (6,)}
    random = np.random.default_rng(0)
    arrays = {
        f"bert.{name}": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    if labels:
        arrays["classifier.weight"] = random.standard_normal((labels, 6)).astype(np.float32)
        arrays["classifier.bias"] = random.standard_normal(labels).astype(np.float32)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray], **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "vocab.txt").write_text("".join(f"word{number}\n" for number in range(9)))
    return folder


def oscar_from(folder: Path, region_dim: int = 3, **options) -> tuple[Oscar, list[str]]:
    pretrained = open_pretrained(folder)
    model = Oscar(pretrained.shape(region_dim), **options)
    return model, load_pretrained(model, pretrained)


def test_a_bert_brings_all_but_regions_and_classifier(tmp_path):
    arrays = originals()
    folder = write(tmp_path / "bert", arrays)
    paddle.seed(0)
    untouched = Oscar(open_pretrained(folder).shape(3))
    paddle.seed(0)
    model, fresh = oscar_from(folder)
    assert fresh == ["bert.regions", "classifier"]
    for name, value in untouched.named_parameters():
        same = np.array_equal(dict(model.named_parameters())[name].numpy(), value.numpy())
        assert same == name.startswith(("bert.regions.", "classifier.")), name
    layer = model.bert.layers[1]
    np.testing.assert_array_equal(
        layer.widen.weight.numpy().T, arrays["bert.encoder.layer.1.intermediate.dense.weight"]
    )
    keys, values = np.split(layer.key_value.weight.numpy(), 2, axis=1)
    np.testing.assert_array_equal(keys.T, arrays["bert.encoder.layer.1.attention.self.key.weight"])
    np.testing.assert_array_equal(values.T, arrays["bert.encoder.layer.1.attention.self.value.weight"])
    np.testing.assert_array_equal(
        model.bert.embeddings.words.weight.numpy(), arrays["bert.embeddings.word_embeddings.weight"]
    )
    assert model.dropout.p == 0.2


def test_an_oscar_brings_everything(tmp_path):
    arrays = originals(region_dim=3, labels=2)
    model, fresh = oscar_from(write(tmp_path / "oscar", arrays, img_feature_dim=3, use_img_layernorm=1))
    assert fresh == []
    assert sorted(name for ours, _ in model.named_parameters() for name in original_names(ours)) == sorted(
        arrays
    )
    np.testing.assert_array_equal(model.bert.regions.fc.weight.numpy().T, arrays["bert.img_embedding.weight"])
    np.testing.assert_array_equal(model.classifier.weight.numpy().T, arrays["classifier.weight"])


def test_an_oscar_without_normalised_regions(tmp_path):
    arrays = originals(region_dim=3, labels=2)
    arrays = {name: array for name, array in arrays.items() if not name.startswith("bert.LayerNorm.")}
    model, fresh = oscar_from(write(tmp_path / "oscar", arrays, img_feature_dim=3, use_img_layernorm=0))
    assert fresh == [] and isinstance(model.bert.regions.norm, paddle.nn.Identity)


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_a_prefix_of_all_names_is_taken_off(tmp_path, prefix):
    arrays = {f"{prefix}{name}": array for name, array in originals(region_dim=3, labels=2).items()}
    _, fresh = oscar_from(write(tmp_path / "oscar", arrays, img_feature_dim=3))
    assert fresh == []


def test_a_head_of_hidden_words_starts_afresh_where_a_bert_has_none(tmp_path):
    _, fresh = oscar_from(write(tmp_path / "bert", originals(region_dim=3, labels=2)), guesses_words=True)
    assert fresh == ["words"]
    head = {
        "transform.dense.weight": np.arange(36).reshape(6, 6),
        "transform.dense.bias": np.ones(6),
        "transform.LayerNorm.weight": np.ones(6),
        "transform.LayerNorm.bias": np.ones(6),
        "bias": np.arange(9),
    }
    arrays = originals(region_dim=3, labels=2)
    arrays |= {f"cls.predictions.{name}": array.astype("f4") for name, array in head.items()}
    model, fresh = oscar_from(write(tmp_path / "both", arrays), guesses_words=True)
    assert fresh == []
    np.testing.assert_array_equal(model.words.bias.numpy(), np.arange(9))
    np.testing.assert_array_equal(model.words.fc.weight.numpy(), head["transform.dense.weight"].T)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_weights_of_sixteen_bits_are_widened(tmp_path, kind):
    arrays = originals(region_dim=3, labels=2)
    folder = write(tmp_path / "half", arrays)
    if kind == "F16":
        wide = {name: array.astype("f2").astype("f4") for name, array in arrays.items()}
        save_file({name: array.astype("f2") for name, array in arrays.items()}, folder / "model.safetensors")
    else:
        halves = {name: (array.view("u4") >> 16).astype("<u2") for name, array in arrays.items()}
        wide = {name: (half.astype("u4") << 16).view("f4") for name, half in halves.items()}
        save_bfloat16(folder / "model.safetensors", halves)
    model, _ = oscar_from(folder)
    np.testing.assert_array_equal(model.classifier.weight.numpy().T, wide["classifier.weight"])
    np.testing.assert_array_equal(model.bert.pooler.weight.numpy().T, wide["bert.pooler.dense.weight"])


def save_bfloat16(path: Path, halves: dict[str, np.ndarray]) -> None:
    """Write patterns of 16 bits as bfloat16, which the library cannot write from NumPy."""
    header, end = {}, 0
    for name, half in halves.items():
        places = [end, end := end + half.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(half.shape), "data_offsets": places}
    text = json.dumps(header).encode()
    content = b"".join(half.tobytes() for half in halves.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in originals(3, 2).items() if key != name}


def changed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    return originals(3, 2) | {name: array.astype(np.float32)}


REFUSED = {
    "no tensor bert.encoder.layer.0.attention.self.value.bias; 1 of the model's": without(
        "bert.encoder.layer.0.attention.self.value.bias"
    ),
    "no tensor bert.img_embedding.bias; 1 of": without("bert.img_embedding.bias"),
    "unexpected tensor bert.more.weight, which": changed("bert.more.weight", np.ones(2)),
    "it has 4 layers, the model 2; use": changed("bert.encoder.layer.3.output.dense.bias", np.ones(6)),
    r"word_embeddings.weight is \[8, 6\].*expects \[9, 6\]; the vocabulary must be": changed(
        "bert.embeddings.word_embeddings.weight", np.ones((8, 6))
    ),
    r"bert.img_embedding.weight is \[4, 6\] in our layout, the model expects \[3, 6\]": changed(
        "bert.img_embedding.weight", np.ones((6, 4))
    ),
    "bert.pooler.dense.bias has values that are not finite": changed(
        "bert.pooler.dense.bias", np.full(6, np.nan)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_weights_that_do_not_fit_change_nothing(tmp_path, message):
    pretrained = open_pretrained(write(tmp_path / "oscar", REFUSED[message]))
    model = Oscar(pretrained.shape(3))
    before = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    with pytest.raises(UserError, match=message):
        load_pretrained(model, pretrained)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), before[name])


CONFIGS = {
    "config.json: img_feature_dim is 54, but the features are 3 wide": {"img_feature_dim": 54},
    "config.json: hidden_act: expected gelu, got 'relu'": {"hidden_act": "relu"},
    "config.json: num_attention_heads: expected a positive number, got 'two'": {"num_attention_heads": "two"},
    r"config.json: hidden_dropout_prob: expected a number in \[0, 1\), got 2": {"hidden_dropout_prob": 2},
}


@pytest.mark.parametrize("message", CONFIGS)
def test_configurations_that_cannot_be(tmp_path, message):
    pretrained = open_pretrained(write(tmp_path / "oscar", originals(), **CONFIGS[message]))
    with pytest.raises(UserError, match=message):
        pretrained.shape(3)


def test_a_folder_that_lacks_a_file(tmp_path):
    folder = write(tmp_path / "bert", originals())
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="bert: no vocab.txt; make the folder with tools/fetch_pretrained.py"):
        open_pretrained(folder)
    with pytest.raises(UserError, match="no config.json"):
        open_pretrained(tmp_path / "nowhere")


def test_a_damaged_file_is_one_line(tmp_path):
    pretrained = open_pretrained(write(tmp_path / "bert", originals()))
    (pretrained.path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="model.safetensors: cannot be read as safetensors"):
        load_pretrained(Oscar(pretrained.shape(3)), pretrained)
    (pretrained.path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not JSON"):
        open_pretrained(pretrained.path)


def test_configured_sizes_must_be_the_folders(tmp_path):
    pretrained = open_pretrained(write(tmp_path / "bert", originals(), layer_norm_eps=1e-5))
    own = pretrained.shape(3)
    pretrained.check_shape(replace(own, dropout=0.5, vocab_size=10, region_norm=False))  # not its to say
    for changes, expected in (
        ({"num_layers": 3, "inner_dim": 11}, "add MODEL.BERT_LAYERS=2 MODEL.BERT_INNER_DIM=10"),
        ({"norm_epsilon": 1e-12}, "add MODEL.BERT_NORM_EPSILON=1e-05"),
    ):
        with pytest.raises(UserError, match=expected) as error:
            pretrained.check_shape(replace(own, **changes))
        assert str(error.value).startswith(str(tmp_path / "bert" / "config.json"))
    one_segment = open_pretrained(write(tmp_path / "other", originals(), type_vocab_size=1))
    with pytest.raises(UserError, match="type_vocab_size: expected 2, for a caption and tags, got 1"):
        one_segment.check_shape(own)
    oscar = open_pretrained(write(tmp_path / "oscar", originals(), use_img_layernorm=0))
    with pytest.raises(UserError, match="add MODEL.IMG_LAYERNORM=False"):
        oscar.check_shape(replace(own, norm_epsilon=1e-12))
