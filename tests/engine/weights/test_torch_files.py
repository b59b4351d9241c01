"""Files of torch are read without torch, and nothing in them is run."""

import os
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from engine.weights.paddle_files import open_paddle_file
from engine.weights.torch_files import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch_file


def integer(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    count: int = 6,
    kind: str = "FloatStorage",
    rebuild: str = "_rebuild_tensor_v2",
) -> bytes:
    """Return the opcodes of a tensor over storage 0 of `count` numbers, as torch writes them."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cuda:0")
    storage += integer(count) + b"tQ"
    call = (
        f"ctorch._utils\n{rebuild}\n(".encode() + storage + integer(offset) + numbers(size) + numbers(stride)
    )
    hooks = b"\x89ccollections\nOrderedDict\n)R" if rebuild.endswith("v2") else b""
    return call + hooks + b"tR"


def program(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def write_zip(path: Path, content: bytes, storage: bytes = b"", byteorder: bytes = b"little") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr("archive/data/0", storage)
    return path


def write_stream(path: Path, content: bytes, storage: bytes, count: int = 6) -> Path:
    head = [
        LEGACY_MAGIC,
        LEGACY_PROTOCOL,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
    ]
    parts = [*(pickle.dumps(part, 2) for part in head), content, pickle.dumps(["0"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", count) + storage)
    return path


SIX = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("write", [write_zip, write_stream])
@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_tensors_are_views_of_their_storage(tmp_path, write, rebuild):
    path = write(tmp_path / "a", program(tensor((2, 2), (1, 3), 1, rebuild=rebuild)), SIX.tobytes())
    np.testing.assert_array_equal(read_torch_file(path), [[1, 4], [2, 5]])


def test_numbers_of_every_kind(tmp_path):
    for kind, dtype in {
        "DoubleStorage": "f8",
        "LongStorage": "i8",
        "BoolStorage": "?",
    }.items():
        values = np.array([0, 1, 2, 3, 0, 1]).astype(dtype)
        found = read_torch_file(
            write_zip(tmp_path / kind, program(tensor((6,), (1,), kind=kind)), values.tobytes())
        )
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def every_number_of_16_bits() -> np.ndarray:
    """Return all patterns of 16 bits: every half, and every bfloat16."""
    return np.arange(2**16, dtype=np.uint32).astype("<u2")


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_halves_and_bfloat16_are_widened_exactly(tmp_path, write):
    bits = every_number_of_16_bits()
    places = {"size": (2**16,), "stride": (1,), "count": 2**16}
    count = () if write is write_zip else (2**16,)
    path = write(tmp_path / "half", program(tensor(**places, kind="HalfStorage")), bits.tobytes(), *count)
    found = read_torch_file(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, bits.view("<f2").astype("f4"))
    path = write(
        tmp_path / "brain", program(tensor(**places, kind="BFloat16Storage")), bits.tobytes(), *count
    )
    found = read_torch_file(path)
    for pattern in (0, 1, 0x3F80, 0x7F7F, 0x8000, 0xC2F7, 0xFFFF):
        upper_half = struct.unpack("<f", struct.pack("<I", pattern << 16))[0]
        np.testing.assert_array_equal(found[pattern], np.float32(upper_half))
    np.testing.assert_array_equal(found.view("<u4"), bits.astype("<u4") << 16)


def test_plain_containers(tmp_path):
    content = {"a": [1, (2.5, None)], 3: OrderedDict(b=b"c"), "opt": Namespace(lr=0.1), "d": {True, "e"}}
    found = read_torch_file(write_zip(tmp_path / "a.pt", pickle.dumps(content, 4)))
    assert found.pop("opt") == {"lr": 0.1}
    assert found == {key: value for key, value in content.items() if key != "opt"}


class Runs:
    """Pickled, a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(folder: Path) -> dict[str, bytes]:
    """Return pickles that would leave a file in `folder`, or look for more, and what each asks for."""
    command = f"touch {folder / 'ran'}"
    return {
        f"{os.system.__module__}.system": pickle.dumps({"a": Runs(os.system, command)}, 2),
        "builtins.eval": pickle.dumps(Runs(eval, f"open({str(folder / 'ran')!r}, 'w')"), 4),
        "builtins.getattr": pickle.dumps([Runs(getattr, "a", "upper")], 4),
        "torch.load": program(b"ctorch\nload\n(" + text("a") + b"tR"),
        "collections.OrderedDict.fromkeys": program(
            b"\x95" + bytes(8) + text("collections") + text("OrderedDict.fromkeys") + b"\x93"
        ),
    }


@pytest.mark.parametrize("name", sorted(hostile(Path("folder"))))
@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_what_a_file_wants_to_run_is_not_run(tmp_path, write, name):
    path = write(tmp_path / "a.bin", hostile(tmp_path)[name], SIX.tobytes())
    with pytest.raises(UserError) as raised:
        read_torch_file(path)
    assert (
        f"a.bin: not a file of plain containers and tensors from torch: it asks for {name}, which is not run"
        in str(raised.value)
    )
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_paddle_is_not_run_either(tmp_path):
    arrays = {"a": SIX.reshape(2, 3), "StructuredToParameterName@@": {"a": "linear_0.w_0"}}
    (tmp_path / "good").write_bytes(pickle.dumps(arrays, 4))
    found = open_paddle_file(tmp_path / "good")
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"].read(), arrays["a"])
    for content, reason in (
        ({"a": Runs(os.system, f"touch {tmp_path / 'ran'}")}, "it asks for .*system, which is not run"),
        ({"a": np.array([print])}, "numbers of type object"),
        ([1, 2], "a list, expected arrays by name"),
    ):
        (tmp_path / "bad").write_bytes(pickle.dumps(content, 4))
        with pytest.raises(UserError, match=reason):
            open_paddle_file(tmp_path / "bad")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("code", [b"(,", b"1f", b", "])
def test_a_type_of_numbers_that_numpy_parses_as_python_is_one_line(tmp_path, code):
    content = pickle.dumps({"a": SIX}, 2)
    assert content.count(b"X\x02\x00\x00\x00f4") == 1
    (tmp_path / "bad").write_bytes(content.replace(b"X\x02\x00\x00\x00f4", b"X\x02\x00\x00\x00" + code))
    with pytest.raises(UserError, match="numbers of a type that is none"):
        open_paddle_file(tmp_path / "bad")


BROKEN = {
    "beyond its 6 numbers": (tensor((2, 2), (1, 3), 3), SIX.tobytes()),
    "size (-1,) and stride (1,) at 0": (tensor((-1,), (1,)), SIX.tobytes()),
    "stride (-1,) at 5": (tensor((6,), (-1,), 5), SIX.tobytes()),
    "of no shape": (tensor((2, 3), (1,)), SIX.tobytes()),
    "it asks for torch.ComplexFloatStorage": (tensor((6,), (1,), kind="ComplexFloatStorage"), SIX.tobytes()),
    "storage 0 has 23 bytes": (tensor((6,), (1,)), SIX.tobytes()[:-1]),
    "a tensor of size (1000, 6) from 6 numbers": (tensor((1000, 6), (0, 1)), SIX.tobytes()),
    "storage 0 has 5 numbers, expected 6 numbers": (tensor((6,), (1,)), SIX.tobytes()[:-4]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_tensor_is_one_line(tmp_path, reason):
    content, storage = BROKEN[reason]
    with pytest.raises(UserError) as raised:
        read_torch_file(write_zip(tmp_path / "a.bin", program(content), storage))
    assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_a_broken_stream_is_one_line(tmp_path):
    good = program(tensor((6,), (1,)))
    for content, storage, count, reason in (
        (good, SIX.tobytes()[:-1], 6, "storage 0 ends"),
        (good, SIX.tobytes(), 5, "storage 0 ends after 5 of 6 numbers"),
        (program(tensor((6,), (1,), count=2**30)), SIX.tobytes(), 6, "more than the file"),
        (program(tensor((6,), (1,), count=-1)), SIX.tobytes(), 6, "more than the file"),
    ):
        with pytest.raises(UserError, match=reason):
            read_torch_file(write_stream(tmp_path / "a.bin", content, storage, count))
    whole = write_stream(tmp_path / "a.bin", good, SIX.tobytes()).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.bin").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.bin: (not a file of plain containers|an empty file)"):
            read_torch_file(tmp_path / "cut.bin")


def test_other_files_are_refused(tmp_path):
    for name, content in {"a": b"", "b": b"hello", "c": pickle.dumps({"a": 1})}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a file of plain containers and tensors from torch|an empty"):
            read_torch_file(tmp_path / name)
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(write_zip(tmp_path / "d", program(b"}"), byteorder=b"big"))
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_torch_file(tmp_path / "e")


ORIGINALS = [
    "vsepp/cosine.pth.tar",
    "vsepp/cosine.legacy.pth.tar",
    "vsepp/cosine.legacy_cuda.pth.tar",
    "vsrn/coco.legacy_cuda.pth.tar",
]


@pytest.mark.parametrize("name", ORIGINALS)
def test_original_checkpoints(shared, name):
    path = shared / "fixtures" / name
    content = read_torch_file(path)
    weights = dict(np.load(path.with_name(path.name.split(".")[0] + ".weights.npz")))
    for prefix, arrays in zip(("img", "txt"), content["model"], strict=True):
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, weights[f"{prefix}.{key}"], err_msg=key)
    assert content["opt"]["embed_size"] == 64
