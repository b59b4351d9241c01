"""Weights of CNNs are converted from the command line, start a CNN, and what does not fit is one line."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import load_file, save_file

from config.errors import UserError
from engine.runs.checkpoint import save_checkpoint
from engine.weights.cnn_weights import load_cnn, start_cnn
from engine.weights.tensors import layer_arrays
from models.cnn import Cnn, CnnImageEncoder, ImageEmbedder
from models.encoders import ImageEncoder


class _Storage:
    """A tensor that pickles as torch's do."""

    def __init__(self, array: np.ndarray, key: str) -> None:
        self.array, self.key = np.ascontiguousarray(array, dtype="<f4"), key


class _TorchPickler(pickle._Pickler):
    """Write names of torch's without torch."""

    def persistent_id(self, thing: object) -> tuple | None:
        if isinstance(thing, _Storage):
            return "storage", _Global("torch", "FloatStorage"), thing.key, "cpu", thing.array.size
        return None

    def save(self, thing: object, save_persistent_id: bool = True) -> None:
        if isinstance(thing, _Global):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, np.ndarray):
            storage = _Storage(thing, str(id(thing)))
            self.storages.append(storage)
            strides = tuple(step // 4 for step in storage.array.strides)
            self.save(_Global("torch._utils", "_rebuild_tensor_v2"))
            self.save((storage, 0, thing.shape, strides, False, OrderedDict()))
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


class _Global:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


def write_pth(path: Path, content: object) -> Path:
    """Write a state dict as torch.save does."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("a/data.pkl", "w") as file:
        pickler = _TorchPickler(file, 2)
        pickler.storages = []
        pickler.dump(content)
        storages = pickler.storages
    with zipfile.ZipFile(path, "a") as archive:
        for storage in storages:
            archive.writestr(f"a/data/{storage.key}", storage.array.tobytes())
    return path


def torch_state(cnn: Cnn) -> dict[str, np.ndarray]:
    """Return what torchvision would call the weights of `cnn`, with its classifier."""
    state = {
        name.replace("._mean", ".running_mean").replace("._variance", ".running_var"): tensor.numpy()
        for name, tensor in cnn.network.state_dict().items()
    }
    return state | {"fc.weight": np.zeros((7, 512), "f4"), "bn1.num_batches_tracked": np.array([5], "f4")}


@pytest.fixture(scope="module")
def cnn() -> Cnn:
    paddle.seed(3)
    return Cnn("resnet18")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_weights_start_the_same_network(run_quickly, cnn, tmp_path, prefix) -> None:
    state = {f"{prefix}{name}": array for name, array in torch_state(cnn).items()}
    write_pth(tmp_path / "resnet18.pth", state)
    done = run_quickly("convert_weights", "resnet18.pth", "out/r.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out/r.safetensors: resnet18, 11.19 million numbers\n"
    assert "fc.weight" not in load_file(tmp_path / "out/r.safetensors")
    model = ImageEmbedder(Cnn("resnet18"))
    start_cnn(model, str(tmp_path / "out/r.safetensors"), 0)
    images = paddle.rand([2, 3, 40, 40])
    for network in (cnn, model.cnn):
        network.eval()
    np.testing.assert_array_equal(model.cnn(images).numpy(), cnn(images).numpy())
    earlier = run_quickly("convert_cnn", "resnet18", "resnet18.pth", "out/earlier.safetensors", cwd=tmp_path)
    assert earlier.stdout == done.stdout.replace("r.safetensors", "earlier.safetensors")
    again = run_quickly("convert_weights", "resnet18.pth", "out/r.safetensors", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: out/r.safetensors: already there: give another OUT")


def test_paddle_weights_are_taken_as_they_are(run_quickly, cnn, tmp_path) -> None:
    paddle.save(cnn.network.state_dict(), str(tmp_path / "resnet18.pdparams"))
    done = run_quickly("convert_weights", "resnet18.pdparams", "r.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "r.safetensors")
    for name, tensor in cnn.network.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def save_run(folder: Path, model: nn.Layer) -> None:
    """Write a checkpoint of a model as training does, without what a resume needs."""
    state = {"model": "cnn", "progress": {"step": 1}}
    save_checkpoint(folder, layer_arrays(model), {}, state, "")


@pytest.mark.parametrize("around", ["image encoder", "VSE++"])
def test_the_network_of_a_trained_run_starts_another(run_quickly, cnn, tmp_path, around) -> None:
    head = ImageEncoder(cnn.feature_dim, 4)
    model = ImageEmbedder(cnn, 3) if around == "image encoder" else CnnImageEncoder(cnn, head)
    save_run(tmp_path / "out/ucm/best", model)
    done = run_quickly("convert_weights", "out/ucm/best", "r.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "r.safetensors")
    assert found.keys() == layer_arrays(cnn.network).keys()
    for name, array in layer_arrays(cnn.network).items():
        np.testing.assert_array_equal(found[name], array)


def test_a_prefix_of_all_names_in_a_file_of_weights_is_taken_off(cnn, tmp_path) -> None:
    arrays = {f"module.backbone.{name}": array for name, array in layer_arrays(cnn.network).items()}
    save_file(arrays, tmp_path / "w.safetensors")
    other = Cnn("resnet18")
    load_cnn(tmp_path / "w.safetensors", other)
    np.testing.assert_array_equal(other.network.conv1.weight.numpy(), cnn.network.conv1.weight.numpy())


def test_a_run_without_a_network_and_a_folder_that_is_none_are_refused(run_quickly, tmp_path) -> None:
    save_run(tmp_path / "out/vse/best", nn.Linear(2, 2))
    done = run_quickly("convert_weights", "out/vse/best", "r.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: out/vse/best: its cnn model has no CNN, expected one trained with MODEL.CNN\n"
    )
    done = run_quickly("convert_weights", "out", "r.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: out: a folder without config.json")
    assert not (tmp_path / "r.safetensors").exists()


def test_weights_of_another_network_are_refused(run_quickly, cnn, tmp_path) -> None:
    write_pth(tmp_path / "w.pth", torch_state(cnn))
    done = run_quickly("convert_weights", "w.pth", "r.safetensors", "--network", "resnet50", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: w.pth: no tensor layer1.0.conv3.weight (165 of 265")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth"]


def test_a_file_that_would_run_something_is_refused(run_quickly, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"cos\nsystem\n(S'touch here'\ntR.")
    done = run_quickly("convert_weights", "w.pth", "r.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "it asks for os.system, which is not run" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda arrays: arrays.pop("bn1._mean"), "no tensor bn1._mean; 1 of the network's"),
        (lambda arrays: arrays.update(extra=np.zeros(2, "f4")), "unexpected tensor extra"),
        (
            lambda arrays: arrays.update({"bn1.bias": np.zeros(3, "f4")}),
            r"bn1.bias is \[3\], .* expects \[64\]",
        ),
        (
            lambda arrays: arrays.update({"bn1.bias": np.full(64, np.nan, "f4")}),
            "bn1.bias has values that are not",
        ),
    ],
)
def test_a_file_that_does_not_fit_leaves_the_network_as_it_was(cnn, tmp_path, change, problem: str) -> None:
    arrays = {name: np.zeros_like(tensor.numpy()) for name, tensor in cnn.network.state_dict().items()}
    change(arrays)
    save_file(arrays, tmp_path / "w.safetensors")
    before = cnn.network.conv1.weight.numpy().copy()
    with pytest.raises(UserError, match=problem):
        load_cnn(tmp_path / "w.safetensors", cnn)
    np.testing.assert_array_equal(cnn.network.conv1.weight.numpy(), before)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_cnn(tmp_path / "missing.safetensors", cnn)
