"""What is written for torch is read again as it was, and damage at any place of a container is one line."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from engine.weights.stored import stored
from engine.weights.torch_files import open_torch_file, read_torch_file
from engine.weights.torch_writer import emit_pickle, write_torch_file
from tests.checkpoints import options, vsepp_parts, write_vsepp

ARRAYS = {
    "matrix": np.arange(6, dtype="f4").reshape(2, 3),
    "double": np.array([1.5, -2.5]),
    "count": np.array(7, dtype=np.int64),
    "none": np.empty((0, 3), "f4"),
    "turned": np.arange(6, dtype="f4").reshape(2, 3).T,
    "flags": np.array([True, False]),
}
PLAIN = {
    "epoch": 3,
    "best": 1.25,
    "name": "caf\u00e9",
    "big": 2**40,
    "minus": -(2**35),
    "no": None,
    "pair": (1, [True]),
}


def test_everything_is_read_again_as_it_was(tmp_path):
    content = {
        **PLAIN,
        "model": [{name: stored(array) for name, array in ARRAYS.items()}],
        "opt": options(lr=0.1),
    }
    write_torch_file(tmp_path / "a.pth", content)
    found = read_torch_file(tmp_path / "a.pth")
    assert found.pop("opt") == {"lr": 0.1}
    (arrays,) = found.pop("model")
    assert found == PLAIN and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].shape, arrays[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(arrays[name], array)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None


def test_plain_content_is_a_pickle(tmp_path):
    (tmp_path / "a.pkl").write_bytes(emit_pickle(PLAIN))
    command = "import pickle, sys; print(sorted(pickle.load(open(sys.argv[1], 'rb')).items(), key=str))"
    done = subprocess.run([sys.executable, "-c", command, tmp_path / "a.pkl"], capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(PLAIN.items(), key=str))
    with pytest.raises(TypeError, match="a object has no place"):
        emit_pickle({"a": object()})


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_torch_file(tmp_path / "a.pth", {name: stored(array) for name, array in ARRAYS.items()})
    for mapped in (False, True):
        found = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name].numpy(), array)


def boundaries(content: bytes) -> list[int]:
    """Return where the parts of a zip begin and end: headers, entries and the directory."""
    marks = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    return sorted(place for mark in marks for place in range(len(content)) if content.startswith(mark, place))


def test_a_zip_that_is_cut_at_any_boundary_is_one_line(tmp_path):
    content = write_vsepp(tmp_path / "a.pth.tar").read_bytes()
    places = [place + step for place in boundaries(content) for step in (-1, 0, 1, 4, 30)]
    for place in {max(0, place) for place in places}:
        if place >= len(content):
            continue
        (tmp_path / "cut").write_bytes(content[:place])
        with pytest.raises(UserError) as raised:
            read_torch_file(tmp_path / "cut")
        assert "\n" not in str(raised.value) and str(tmp_path / "cut") in str(raised.value)


def rewritten(path: Path, change) -> Path:
    """Write the parts of a zip again, each as `change` returns it; None leaves it out."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            content = change(name, content)
            if content is not None:
                archive.writestr(name, content)
    return path


PARTS = {
    "has 74 numbers, expected 75 numbers": lambda name, part: part[:-4] if name.endswith("/4") else part,
    r"it is cut short or damaged \(KeyError\)": lambda name, part: None if name.endswith("/4") else part,
    "a zip of something else": lambda name, part: None if name.endswith(".pkl") else part,
    "big-endian": lambda name, part: b"big" if name.endswith("byteorder") else part,
    "pickle data was truncated|cut short": lambda name, part: part[:-30] if name.endswith(".pkl") else part,
}


@pytest.mark.parametrize("message", PARTS)
def test_a_zip_with_a_damaged_part_is_one_line(tmp_path, message):
    path = rewritten(write_vsepp(tmp_path / "a.pth.tar"), PARTS[message])
    with pytest.raises(UserError, match=message):
        read_torch_file(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = write_vsepp(tmp_path / "a.pth.tar")
    content, part = bytearray(path.read_bytes()), vsepp_parts()[0]["fc.weight"].load().tobytes()
    content[content.find(part) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="storage 0 is damaged: its checksum differs"):
        read_torch_file(path)


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    path = write_vsepp(tmp_path / "a.pth.tar")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/more", bytes(10**7))
    with pytest.raises(UserError, match=r"it unpacks to 10\.\d MB from 0\.0 MB, which torch never writes"):
        read_torch_file(path)


def write_views(path: Path, views: int, count: int = 10_000) -> Path:
    """Write so many tensors that share one storage of `count` numbers."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    number = b"J" + struct.pack("<i", count)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(h\x00K\x00" + number + b"\x85K\x01\x85"
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    with zipfile.ZipFile(path, "w") as archive:
        program = b"\x80\x02" + storage + number + b"tQq\x000](" + tensor * views + b"e."
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", bytes(4 * count))
    return path


def test_tensors_may_share_a_storage_but_not_without_bounds(tmp_path):
    assert len(read_torch_file(write_views(tmp_path / "few.pth", 5))) == 5
    with pytest.raises(UserError, match="its tensors would take 2 MB, the file has 0 MB"):
        read_torch_file(write_views(tmp_path / "many.pth", 50))


HOSTILE = {
    "it sets the state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x08__name__U\x01as"
    + b"b.",
    "it holds buffers outside of it": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "it asks for posix.system": b"\x80\x02c" + os.system.__module__.encode() + b"\nsystem\n.",
    "numbers of type object": b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
    "it makes an object of another class": (
        b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\nc__builtin__\nobject\nNtR."
    ),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_tricks_of_pickles_are_refused(tmp_path, message):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", HOSTILE[message])
    with pytest.raises(UserError, match=message):
        read_torch_file(tmp_path / "a.pth")


def test_numbers_of_numpy_are_plain(tmp_path):
    content = {
        "best": np.float64(1.5),
        "step": np.int64(7),
        "array": np.arange(3),
        "big": np.arange(3, dtype=">i4"),
    }
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, 2))
    found = read_torch_file(tmp_path / "a.pth")
    assert (found["best"], found["step"]) == (1.5, 7)
    np.testing.assert_array_equal(found["array"], [0, 1, 2])
    np.testing.assert_array_equal(found["big"], [0, 1, 2])


def test_containers_within_containers(tmp_path):
    deep: list = []
    for _ in range(40):  # each holds the one before it twice: 2^40 lists, if they were not shared
        deep = [deep, deep]
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        buffer = io.BytesIO()
        pickle.dump(deep, buffer, 2)
        archive.writestr("a/data.pkl", buffer.getvalue())
        archive.writestr("a/data/none", b"")
    found = open_torch_file(tmp_path / "a.pth")
    assert found[0] is found[1]
