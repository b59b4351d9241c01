"""Networks of convolutions in ONNX files run by oneDNN as by ONNX Runtime; others are refused in one line."""

import builtins
import sys

import numpy as np
import pytest

from config.errors import UserError
from config.files.networks import read_backbone
from engine.extraction.build import build_network, choose_precision
from engine.extraction.onednn_backbone import OnednnNetwork
from engine.extraction.onnx_backbone import OnnxNetwork
from models.kernels import precision
from models.kernels.onednn import has_bfloat16, has_wide_vectors
from tests.onnx_networks import backbone_yaml, write_convolutions, write_many_means, write_means
from tests.other_processors import without_bfloat16, without_wide_vectors

here = pytest.mark.skipif(not has_bfloat16(), reason="no instructions for bfloat16 here")
SIZE = 9


def images(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, size, size), dtype=np.float32)


@here
@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("output", ["pool", "grid"])
def test_outputs_are_those_of_float32_but_for_rounding(tmp_path, output, batch):
    path = write_convolutions(tmp_path / "a.onnx", SIZE, batch)
    expected = OnnxNetwork(path, "image", output, SIZE)(images(5))
    found = OnednnNetwork(path, "image", output, SIZE)(images(5))
    if output == "pool":
        expected = expected[:, :, 0, 0]
    assert found.shape == expected.shape
    # Four convolutions round maps and weights by 2^-9 of terms, whose sizes add up to some times the sum.
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(found - expected).max() > 0  # or it was not computed in bfloat16


MISTAKES = {
    "no file": ("none.onnx", "pool", SIZE, "none.onnx: no such file, expected a network"),
    "no network": ("text.onnx", "pool", SIZE, "text.onnx: not a network in ONNX's format"),
    "no such output": (
        "a.onnx",
        "pol",
        SIZE,
        "there is no output 'pol', it has pool, grid, classes: set POOLED",
    ),
    "which output": ("a.onnx", "", SIZE, "several outputs, it has pool, grid, classes"),
    "another size": ("a.onnx", "pool", 16, "input image is [0, 3, 9, 9], expected [n, 3, 16, 16]: set SIZE"),
    "an output of other operators": (
        "a.onnx",
        "classes",
        SIZE,
        "alone, one after the other, but it has Gemm: extract",
    ),
    "another operator": ("pool.onnx", "pool", SIZE, "but it has MaxPool: extract in float32"),
    "no convolutions": ("means.onnx", "pool", 8, "its output is not the map of its last convolution"),
    "a map that is read later": ("late.onnx", "pool", SIZE, "a map is read after it was added to another"),
    "a sum of what is read twice": ("twice.onnx", "pool", SIZE, "Relu of what is read elsewhere, too"),
    "a map of two names": ("alias.onnx", "pool", SIZE, "Identity of what is read elsewhere, too"),
    "a convolution of a mean": ("many.onnx", "pool", 8, "means is no map of its pictures"),
    "weights of another width": (
        "width.onnx",
        "pool",
        SIZE,
        "its convolutions cannot run in bfloat16 (RuntimeError:",
    ),
    "a weight without its bytes": ("short.onnx", "pool", SIZE, "cannot run in bfloat16 (ValueError:"),
}


@here
@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_one_line(tmp_path, name):
    (tmp_path / "text.onnx").write_text("hello")
    write_means(tmp_path / "means.onnx")
    write_many_means(tmp_path / "many.onnx", 8, 5)
    for damage in ("", "pool", "late", "twice", "width", "short", "alias"):
        write_convolutions(tmp_path / f"{damage or 'a'}.onnx", SIZE, damage=damage)
    file, output, size, message = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        OnednnNetwork(tmp_path / file, "", output, size)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_package_onnx_its_requirements_are_named(tmp_path, monkeypatch):
    path, real = write_convolutions(tmp_path / "a.onnx", SIZE), builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "onnx":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UserError, match="bfloat16 needs the package onnx, which is not installed: pip install -r"
    ):
        OnednnNetwork(path, "image", "pool", SIZE)


@pytest.fixture
def convolutions(tmp_path):
    """Return the backbone of a network of convolutions."""
    return read_backbone(
        backbone_yaml(tmp_path / "a.yaml", write_convolutions(tmp_path / "convolutions.onnx", 8))
    )


@pytest.fixture
def means(tmp_path):
    """Return the backbone of a network of means alone."""
    return read_backbone(backbone_yaml(tmp_path / "means.yaml", write_means(tmp_path / "means.onnx")))


@here
def test_auto_is_bfloat16_where_it_is_quicker_and_the_network_allows_it(
    tmp_path, convolutions, means, monkeypatch
):
    monkeypatch.setattr(precision, "quickest", lambda purpose: "bfloat16")
    assert choose_precision("auto", "--precision", means, False) == "float32"
    assert choose_precision("auto", "--precision", convolutions, False) == "bfloat16"
    monkeypatch.setattr(precision, "quickest", lambda purpose: "float32")
    assert choose_precision("auto", "--precision", convolutions, False) == "float32"
    with pytest.raises(UserError, match="bfloat16 is for networks of Add, BatchNormalization"):
        choose_precision("bfloat16", "--precision", means, False)
    paddle = tmp_path / "paddle.yaml"
    paddle.write_text("MODEL: resnet18\nKIND: paddle\nWEIGHTS: none.safetensors\n")
    with pytest.raises(UserError, match="networks with KIND: onnx, and this one has KIND: paddle"):
        choose_precision("bfloat16", "--precision", read_backbone(paddle), False)


def test_without_instructions_bfloat16_is_refused_and_auto_is_float32(convolutions, monkeypatch):
    without_bfloat16(monkeypatch)
    assert choose_precision("auto", "--precision", convolutions, False) == "float32"
    with pytest.raises(UserError, match="--precision: expected a CPU that multiplies bfloat16, but this"):
        choose_precision("bfloat16", "--precision", convolutions, False)


def test_in_float32_onednn_runs_what_it_can_and_onnx_runtime_the_rest(convolutions, means, monkeypatch):
    expected = OnnxNetwork(convolutions.model, "image", "pool", 8)(images(3, 8))[:, :, 0, 0]
    for wide in (has_wide_vectors(), False):
        if not wide:
            without_wide_vectors(monkeypatch)
        build_network.cache_clear()
        network = build_network(convolutions, as_map=False)
        assert isinstance(network, OnednnNetwork if wide else OnnxNetwork)
        found = network(images(3, 8)).reshape(expected.shape)
        # Four convolutions round maps by 2^-24 of terms, whose sizes add up to some times the sum.
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    assert isinstance(build_network(means, as_map=False), OnnxNetwork)


def test_without_the_package_onnx_float32_goes_by_onnx_runtime(convolutions, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    build_network.cache_clear()
    assert isinstance(build_network(convolutions, as_map=False), OnnxNetwork)


def test_names_of_a_damaged_network_are_told_in_one_line(tmp_path):
    import onnx

    model = onnx.load(write_convolutions(tmp_path / "a.onnx", SIZE))
    model.graph.output[0].name = "po\n\x08ol"
    onnx.save(model, tmp_path / "named.onnx")
    with pytest.raises(UserError) as refused:
        OnednnNetwork(tmp_path / "named.onnx", "image", "pool", SIZE, precision="float32")
    assert "there is no output 'pool', it has po" in str(refused.value) and str(refused.value).isprintable()
