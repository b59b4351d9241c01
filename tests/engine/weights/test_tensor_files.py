"""Tensors are saved with their values whatever their memory layout, and read or refused on one line."""

import hashlib
import resource
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from config.errors import UserError
from engine.weights.stored import stored
from engine.weights.tensor_files import (
    read_metadata,
    read_safetensors,
    save_safetensors,
    stream_safetensors,
)

PLAIN = np.arange(24, dtype=np.float32).reshape(4, 6)
LAYOUTS = {
    "plain": PLAIN,
    "transposed": PLAIN.T,
    "Fortran order": np.asfortranarray(PLAIN),
    "columns": PLAIN[:, 1:3],
    "every other row": PLAIN[::2],
    "reversed": PLAIN[::-1],
    "axes moved": np.moveaxis(PLAIN.reshape(2, 3, 4), 0, 2),
    "broadcast": np.broadcast_to(PLAIN[0], (3, 6)),
    "0-d": np.array(3.5, dtype=np.float32),
    "0-d integer": np.array(7),
    "empty": np.empty((0, 3), dtype=np.float32),
    "empty, transposed": np.empty((3, 0), dtype=np.float32).T,
    "big-endian": PLAIN.T.astype(">f4"),
    "halves": PLAIN.T.astype(np.float16),
    "booleans": (PLAIN > 5).T,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_is_saved_with_its_values(tmp_path, name):
    array = LAYOUTS[name]
    save_safetensors(tmp_path / "a.safetensors", {"first": PLAIN, name: array}, {"of": "a test"})
    found = read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == {"first", name} and read_metadata(tmp_path / "a.safetensors") == {"of": "a test"}
    assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["first"], PLAIN)


def test_a_file_of_tensors_is_as_public_as_any_other(tmp_path):
    (tmp_path / "text").write_text("any")
    save_safetensors(tmp_path / "a.safetensors", {"a": PLAIN})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "text").stat().st_mode
    assert read_metadata(tmp_path / "a.safetensors") == {}


def test_a_disk_that_refuses_raises_as_the_system_does(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_safetensors(tmp_path / "none" / "a.safetensors", {"a": PLAIN})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            save_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.strerror == "File too large"


@pytest.mark.parametrize("damage", ["missing", "a folder", "empty", "cut", "text", "a type NumPy lacks"])
@pytest.mark.parametrize("read", [read_safetensors, read_metadata])
def test_what_cannot_be_read_is_refused_on_one_line(tmp_path, damage, read):
    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"a": PLAIN})
    whole = path.read_bytes()
    content = {"empty": b"", "cut": whole[:-8], "text": b"no tensors", "a type NumPy lacks": of_eighths()}
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage in content:
        path.write_bytes(content[damage])
    if damage == "a type NumPy lacks" and read is read_metadata:
        assert read(path) == {}
        return
    with pytest.raises(UserError, match=r"a.safetensors: broken \(.*\); mend it$") as caught:
        read(path, "broken", "; mend it")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="a.safetensors: cannot be read as safetensors"):
        read(path)


def of_eighths() -> bytes:
    """Return a file whose one tensor has a type of 8 bits that NumPy lacks."""
    header = b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.arange(2**16, dtype=np.uint32).astype("<u2")  # every bfloat16
    header = b'{"a":{"dtype":"BF16","shape":[256,256],"data_offsets":[0,131072]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    found = read_safetensors(tmp_path / "a")["a"]
    assert (found.shape, found.dtype) == ((256, 256), np.float32)
    np.testing.assert_array_equal(found.view("<u4").reshape(-1), bits.astype("<u4") << 16)
    assert found[0x3F, 0x80] == 1.0 and found[0x40, 0x49] == np.float32(3.140625)


def test_tensors_are_written_one_by_one_as_the_library_writes_them(tmp_path):
    kinds = {"float32": "f4", "float64": "f8", "int64": "i8", "uint8": "u1", "bool": "?"}
    arrays = {name: PLAIN.astype(dtype) for name, dtype in kinds.items()}
    arrays |= {"turned": PLAIN.T, "none": np.empty((0, 3), "f4"), "one": np.array(2.5, "f4")}
    told = []
    facts = stream_safetensors(
        tmp_path / "ours",
        {name: stored(array) for name, array in arrays.items()},
        lambda stage, done, total: told.append((stage, done, total)),
    )
    found = load_file(tmp_path / "ours")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(found[name], array)
    content = (tmp_path / "ours").read_bytes()
    assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    size = sum(array.nbytes for array in arrays.values())
    assert told[-1] == ("weights", size, size) and len(told) == len(arrays)
