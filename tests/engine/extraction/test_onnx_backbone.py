"""Networks in ONNX files run, and those that do not fit say what they have and what was expected."""

import builtins

import numpy as np
import onnx
import pytest

from config.errors import UserError
from engine.extraction.onnx_backbone import OnnxNetwork
from tests.closeness import assert_close
from tests.onnx_networks import write_means


def images(batch: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((batch, 3, size, size), dtype=np.float32)


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_outputs_come_by_name_whatever_batch_the_network_is_made_for(tmp_path, batch):
    path = write_means(tmp_path / "a.onnx", batch=batch)
    values = images(6)
    pool = OnnxNetwork(path, "image", "pool", 8)(values)
    assert_close(pool[:, :, 0, 0], values.mean(axis=(2, 3)), 8 * 8)
    grid = OnnxNetwork(path, "", "grid", 8)(values)
    assert_close(grid[:, :, 0, 1], values[:, :, :4, 4:].mean(axis=(2, 3)), 4 * 4)


MISTAKES = {
    "no file": (("none.onnx", "image", "pool", 8), "none.onnx: no such file, expected a network"),
    "no network": (("text.onnx", "image", "pool", 8), "text.onnx: not a network that ONNX Runtime can run"),
    "no such input": (
        ("a.onnx", "img", "pool", 8),
        "there is no input 'img', it has image ['n', 3, 8, 8]: set INPUT",
    ),
    "no such output": (
        ("a.onnx", "image", "pol", 8),
        "there is no output 'pol', it has pool ['n', 3, 1, 1], grid",
    ),
    "which output": (("a.onnx", "image", "", 8), "several outputs, it has pool"),
    "another size": (
        ("a.onnx", "image", "pool", 16),
        "input image is tensor(float) ['n', 3, 8, 8], expected tensor(float) [n, 3, 16, 16]: set SIZE",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_one_line(tmp_path, name):
    write_means(tmp_path / "a.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (file, *words), message = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        OnnxNetwork(tmp_path / file, *words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_onnx_runtime_the_requirements_are_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install -r requirements-onnx.txt"):
        OnnxNetwork(write_means(tmp_path / "a.onnx"), "image", "pool", 8)


@pytest.mark.parametrize("name", [b"pool", b"grid", b"image", b"\x01n"])
def test_a_name_that_is_no_text_is_one_line_and_nothing_is_printed(tmp_path, capfd, name):
    content = write_means(tmp_path / "net.onnx").read_bytes()
    assert name in content
    (tmp_path / "net.onnx").write_bytes(content.replace(name, name[:-1] + b"\xff"))
    with pytest.raises(UserError, match=r"net.onnx: not a network that ONNX Runtime can run \(") as error:
        OnnxNetwork(tmp_path / "net.onnx", "image", "pool", 8)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_of_many_outputs_five_are_named(tmp_path):
    write_means(tmp_path / "net.onnx")
    network = onnx.load(tmp_path / "net.onnx")
    pool = network.graph.output[0]
    for number in range(40):
        node = onnx.helper.make_node("Identity", ["pool"], [f"{'long' * 20}_{number}"])
        network.graph.node.append(node)
        network.graph.output.append(onnx.ValueInfoProto(name=node.output[0], type=pool.type))
    onnx.save(network, tmp_path / "net.onnx")
    with pytest.raises(UserError, match="several outputs, it has .*42 in all") as error:
        OnnxNetwork(tmp_path / "net.onnx", "", "", 8)
    assert len(str(error.value).replace(str(tmp_path), "")) <= 300
