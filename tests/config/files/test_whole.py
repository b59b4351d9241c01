"""A file or folder is written whole or not at all, and nothing is left beside it."""

import os
from pathlib import Path

import pytest

from config.errors import UserError
from config.files.whole import replacing, write_whole, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["später\n", b"\x00\xff"], ids=["text", "bytes"])
def test_a_file_is_written_with_its_folders_and_replaced(tmp_path, content):
    path = tmp_path / "a" / "b" / "file"
    for _ in range(2):
        write_whole(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
        assert names(path.parent) == ["file"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_ends_a_draft_leaves_what_was_there(tmp_path, stop):
    (tmp_path / "file").write_text("before")
    with pytest.raises(stop), writing(tmp_path / "file") as draft:
        draft.write_text("half")
        assert draft.name == f".file.{os.getpid()}.new"
        raise stop
    assert (tmp_path / "file").read_text() == "before" and names(tmp_path) == ["file"]


def test_a_disk_that_refuses_is_one_line_with_a_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError) as caught:
        write_whole(tmp_path / "file", "after", "free some space")
    assert str(caught.value) == (
        f"cannot write {tmp_path}/file: No space left on device; what was there before is intact; "
        "free some space"
    )
    assert (tmp_path / "file").read_text() == "before" and names(tmp_path) == ["file"]
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/file/inside: .* is intact$"):
        write_whole(tmp_path / "file" / "inside", "after")


def test_a_folder_takes_the_place_of_one_that_holds_files(tmp_path):
    for content in ("one", "two"):
        with replacing(tmp_path / "folder") as draft:
            draft.mkdir()
            (draft / content).write_text(content)
        assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == [content]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "folder" / "before").mkdir(parents=True)
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match="Permission denied"), writing(tmp_path / "folder") as draft:
        draft.mkdir()
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["before"]


def test_a_folder_takes_the_place_of_a_link_and_leaves_what_it_points_to(tmp_path):
    (tmp_path / "elsewhere" / "kept").mkdir(parents=True)
    (tmp_path / "folder").symlink_to("elsewhere")
    with replacing(tmp_path / "folder") as draft:
        draft.mkdir()
    assert names(tmp_path) == ["elsewhere", "folder"] and not (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "elsewhere") == ["kept"]
