"""Classes are divided among splits from the command line."""

from pathlib import Path

import pytest

from tests.picture_files import write_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = [
        f"{alphabet}/{letter}/{n}.png"
        for alphabet in ("Greek", "Latin")
        for letter in ["abc", "d"]
        for n in (1, 2)
    ]
    return write_folder(tmp_path / "images", dict.fromkeys(names, b""))


def classes_of(path: Path) -> set[str]:
    return {line.rsplit(" ", 1)[1] for line in path.read_text().splitlines()}


def test_splits_by_number_share_no_class_and_repeat_with_the_seed(run_quickly, images, tmp_path):
    numbers = ["--train", "2", "--dev", "1", "--test", "1"]
    for out in ("one", "two"):
        done = run_quickly("split_classes", images, tmp_path / out, *numbers)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{out}/train.txt: 4 pictures of 2 classes" in done.stdout
    found = [classes_of(tmp_path / "one" / f"{split}.txt") for split in ("train", "dev", "test")]
    assert [len(classes) for classes in found] == [2, 1, 1]
    assert len(set.union(*found)) == 4
    for split in ("train", "dev", "test"):
        assert (tmp_path / "one" / f"{split}.txt").read_text() == (
            tmp_path / "two" / f"{split}.txt"
        ).read_text()


def test_splits_by_folder(run_quickly, images, tmp_path):
    done = run_quickly("split_classes", images, tmp_path, "--train", "Greek", "--dev", "1", "--test", "d")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: class Greek/d is in two splits" in done.stderr
    done = run_quickly("split_classes", images, tmp_path, "--train", "Greek", "--dev", "1", "--test", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert classes_of(tmp_path / "train.txt") == {"Greek/abc", "Greek/d"}
    assert classes_of(tmp_path / "dev.txt") | classes_of(tmp_path / "test.txt") == {"Latin/abc", "Latin/d"}


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ("9", "--train: expected 1 to 4 classes, those that are left, got 9"),
        ("Cyrillic", "--train: no class lies in Cyrillic"),
    ],
)
def test_what_cannot_be_is_one_line(run_quickly, images, tmp_path, train, problem):
    done = run_quickly("split_classes", images, tmp_path, "--train", train, "--dev", "1", "--test", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert problem in done.stderr
    assert not (tmp_path / "train.txt").exists()
