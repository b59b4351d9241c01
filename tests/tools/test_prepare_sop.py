"""The lists of Stanford Online Products have the original's pictures and classes, or a line says why not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {  # pictures and classes up to the ends of the tiny, half and full lists
    "Ebay_train.txt": [(1_012, 160), (29_437, 5_184), (59_551, 11_318)],
    "Ebay_test.txt": [(1_048, 160), (30_003, 5_184), (60_502, 11_316)],
}
FEW = 40  # picture files that there are: a list may name one several times


def labels(counts: list[tuple[int, int]], first: int) -> list[int]:
    """Return a class for each picture, in order, so that all counts hold."""
    found: list[int] = []
    for pictures, classes in counts:
        new = range(len(set(found)), classes)
        extra = pictures - len(found) - len(new)
        found += [label for label in new for _ in range(1 + (label == new[0]) * extra)]
    return [first + label for label in found]


@pytest.fixture
def sop(tmp_path) -> Path:
    """Return a folder as the zip file has it, whose lists name few pictures again and again."""
    folder = tmp_path / "Stanford_Online_Products"
    (folder / "chair_final").mkdir(parents=True)
    for number in range(FEW):
        (folder / f"chair_final/{number}.JPG").touch()
    first = 1
    for name, counts in COUNTS.items():
        rows = ["image_id class_id super_class_id path"]
        rows += [
            f"{number} {label} 1 chair_final/{number % FEW}.JPG"
            for number, label in enumerate(labels(counts, first), start=1)
        ]
        first += counts[-1][1]
        (folder / name).write_text("\r\n".join(rows) + "\r\n")
    return folder


def prepare(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools/prepare_sop.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_the_lists_have_the_counts_of_the_original(sop, tmp_path):
    done = prepare(sop, "--out", tmp_path / "lists")
    assert (done.returncode, done.stderr) == (0, "")
    for source, side in (("Ebay_train.txt", "train"), ("Ebay_test.txt", "test")):
        given = [line.split() for line in (sop / source).read_text().splitlines()[1:]]
        for (pictures, classes), ending in zip(COUNTS[source], ("_tiny", "_half", ""), strict=True):
            lines = (tmp_path / f"lists/{side}{ending}.txt").read_text().splitlines()
            assert lines == [f"{row[3]} {row[1]}" for row in given[:pictures]]
            assert len({line.split()[1] for line in lines}) == classes
    assert f"{tmp_path}/lists/train_half.txt: 29,437 pictures of 5,184 classes" in done.stdout
    assert len(list((tmp_path / "lists").iterdir())) == 6


def cut(sop: Path) -> None:
    lines = (sop / "Ebay_test.txt").read_text().splitlines()
    (sop / "Ebay_test.txt").write_text("\n".join(lines[:-1]))


def lengthen(sop: Path) -> None:
    with open(sop / "Ebay_train.txt", "a") as file:
        file.write("59552 1 1 chair_final/1.JPG\n")


def mix_classes(sop: Path) -> None:
    path = sop / "Ebay_train.txt"
    path.write_text(path.read_text().replace("\n1 1 1 ", "\n1 999 1 "))


MISTAKES = {
    "a list cut short": (cut, "Ebay_test.txt: 60,501 pictures", "expected 60,502"),
    "a list too long": (lengthen, "Ebay_train.txt: 59,552 pictures", "expected 59,551"),
    "other classes": (mix_classes, "first 1,012 of 161 classes", "and 160 classes"),
    "a missing picture": (
        lambda sop: (sop / "chair_final/3.JPG").unlink(),
        "Ebay_train.txt line 4: there is no picture",
        "chair_final/3.JPG: unpack",
    ),
    "a missing list": (lambda sop: (sop / "Ebay_test.txt").unlink(), "Ebay_test.txt: no such file", ""),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_lists_that_differ_are_refused_and_nothing_is_written(sop, name):
    damage, *parts = MISTAKES[name]
    damage(sop)
    done = prepare(sop)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in parts), done.stderr
    assert not (sop / "train.txt").exists()


def test_a_zip_file_is_to_be_unpacked(tmp_path):
    (tmp_path / "sop.zip").write_bytes(b"PK")
    done = prepare(tmp_path / "sop.zip")
    assert done.returncode == 2 and "expected a folder, got a file: unpack it" in done.stderr
