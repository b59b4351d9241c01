"""Tensors are saved with their values whatever their memory layout, and read or refused on one line."""

import resource
import signal

import numpy as np
import pytest

from config.errors import UserError
from engine.weights.tensor_files import read_metadata, read_safetensors, save_safetensors

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
    content = {"empty": b"", "cut": whole[:-8], "text": b"no tensors", "a type NumPy lacks": of_bfloat16()}
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


def of_bfloat16() -> bytes:
    """Return a file whose one tensor has no type in NumPy."""
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)
