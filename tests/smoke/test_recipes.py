"""The commands that docs print work as printed, in a folder that holds what the text says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (90, 90, 90)}


def commands_of(page: str, heading: str) -> list[list[str]]:
    """Return the words of each `python tools/...` command in the first block under a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    block = text.partition("```\n")[2].partition("```")[0].replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("python tools/")]


@pytest.fixture
def working_folder(tmp_path) -> Path:
    """Return a folder with configs and a network that writes 1280 means of colours."""
    from tests.onnx_networks import write_many_means

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data" / "models").mkdir(parents=True)
    write_many_means(tmp_path / "data" / "models" / "mnv2.onnx", size=224, width=1280)
    return tmp_path


def write_photos(folder: Path) -> None:
    """Write photos of one colour each, and captions of three splits."""
    (folder / "photos").mkdir(parents=True)
    random, lines = np.random.default_rng(0), ["image,caption,split"]
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        for number in range(count):
            name, colour = list(COLOURS.items())[number % 4]
            pixels = np.clip(np.array(colour) + random.integers(-30, 30, (40, 50, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / f"{split}_{number}.jpg")
            lines.append(f"{split}_{number}.jpg,a {name} pond number {number},{split}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def test_own_photos_are_extracted_trained_on_and_searched_as_docs_images_says(working_folder, run_quickly):
    write_photos(working_folder / "data" / "mine")
    commands = commands_of("images.md", "Your own photos")
    assert [Path(words[0]).stem for words in commands] == [
        "extract_features",
        "train_retrieval",
        "search_retrieval",
    ]
    for words in commands:
        done = run_quickly(Path(words[0]).stem, *words[1:], cwd=working_folder)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"1  [\d.-]+  test_\d.jpg", done.stdout)
    assert "no pictures to show" not in done.stdout
