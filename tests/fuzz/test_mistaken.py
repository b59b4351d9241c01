"""A page of HTML, a pointer of Git LFS or nothing in place of a downloaded file is told by every reader."""

import pytest

from config.errors import UserError
from tests.fuzz.damage import WHOLE
from tests.fuzz.kept import ALL, KEPT

# What this toolkit writes and reads again says which part is damaged; who asks for pictures names them.
OWN = ("choice of", "checkpoint", "log of", "result", "index", "bundle", "picture, ", *KEPT)
BESIDE = ("x_tags.txt", "features.lineidx")  # text that may hold anything, and is made here
CAME = {"a page of HTML": "<!DOCTYPE", "a pointer of Git LFS": "version https"}
CASES = [
    (name, file)
    for name, reader in ALL.items()
    for file in reader.files
    if not name.startswith(OWN) and file not in BESIDE
]


@pytest.mark.parametrize("kind", CAME)
@pytest.mark.parametrize(("name", "file"), CASES)
def test_what_came_instead_is_told(tmp_path, name, file, kind):
    content = next(each for each in WHOLE if each.startswith(CAME[kind].encode()))
    ALL[name].write(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=kind) as error:
        ALL[name].read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "file"), CASES)
def test_an_empty_file_is_told(tmp_path, name, file):
    if (name, file) in (("task", "t.yaml"), ("swapped captions", "test_swapped.jsonl")):
        pytest.skip("nothing is a task file of defaults, and a list of no captions")
    ALL[name].write(tmp_path)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(UserError, match=r"empty|no line for the image|expected (keys|BERT's)|no \[PAD\]"):
        ALL[name].read(tmp_path)
