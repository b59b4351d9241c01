"""Arrays come back from .npy and .npz files, and whatever else a file holds is one line."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from datasets.array_files import read_npy, read_npz

ROOT = Path(__file__).resolve().parents[2]


def test_arrays_come_back(tmp_path):
    array = np.random.default_rng(0).random((3, 4))
    np.save(tmp_path / "a.npy", array.T)
    np.savez_compressed(tmp_path / "a.npz", one=array, two=np.array("text"))
    assert np.array_equal(read_npy(tmp_path / "a.npy"), array.T)
    found = read_npz(tmp_path / "a.npz", ["two"], "remedy")
    assert found.keys() == {"one", "two"} and np.array_equal(found["one"], array)


def test_every_cut_and_every_other_file_is_one_line(tmp_path):
    """A file is cut in steps of seven bytes; what is left is refused, and never read as something else."""
    path, read = tmp_path / "a.npz", lambda: read_npz(path, ["a"], "remedy")
    np.savez_compressed(path, a=np.arange(50))
    whole = path.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8', ")
    for content in (b"", b"text", packed.getvalue(), *(whole[:end] for end in range(0, len(whole), 7))):
        path.write_bytes(content)
        with pytest.raises(UserError, match="remedy$") as refused:
            read()
        assert "\n" not in str(refused.value)
    np.save(tmp_path / "a.npy", np.arange(50))
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (b"PK\x03\x04", *(whole[:end] for end in range(0, len(whole), 7))):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(UserError, match="a.npy( is not a .npy file|: an empty file|: a zip that is cut)"):
            read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("flag", [1, 0x41])
def test_an_encrypted_archive_is_one_line(tmp_path, flag):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(5))
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] = flag
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a file of plain arrays"):
        read_npz(path, ["a"], "remedy")


def test_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_npz(tmp_path / "a.npz", ["a"], "remedy")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_npy(tmp_path / "a.npy")


def test_a_file_of_python_2_is_read_without_a_word(tmp_path):
    np.save(tmp_path / "new.npy", np.arange(6.0).reshape(2, 3))
    data = (tmp_path / "new.npy").read_bytes()
    assert data.count(b"(2, 3), }  ") == 1
    (tmp_path / "old.npy").write_bytes(data.replace(b"(2, 3), }  ", b"(2L, 3L), }"))
    code = (
        f"from datasets.array_files import read_npy; print(read_npy({str(tmp_path / 'old.npy')!r}).tolist())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]\n", "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_letters_beyond_unicode_are_one_line(tmp_path, order):
    good = np.array(["a dog", "é\U0001f415", ""], f"{order}U5")
    bad = np.frombuffer(good.tobytes(), f"{order}u4").copy()
    bad[3] = 0x110000
    np.savez(tmp_path / "good.npz", names=good)
    np.savez(tmp_path / "bad.npz", names=np.frombuffer(bad.tobytes(), good.dtype))
    assert read_npz(tmp_path / "good.npz", ["names"], "remedy")["names"].tolist() == good.tolist()
    with pytest.raises(UserError, match="names.npy holds letters beyond Unicode"):
        read_npz(tmp_path / "bad.npz", ["names"], "remedy")
