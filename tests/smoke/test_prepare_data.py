"""Photos and a table become a data set with one command, which trains and is searched with two more."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.features.formats import open_features
from models.kernels.onednn import has_bfloat16
from tests.forks import run_forked
from tests.onnx_networks import backbone_yaml, write_convolutions, write_means
from tests.picture_files import encoded, noisy, write_folder

INTERRUPT = Path(__file__).with_name("interrupt_extraction.py")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_data.py"
COLOURS = ["red", "green", "blue"]


def photo(number: int) -> bytes:
    return encoded(noisy(60, 40, seed=number), "JPEG")


def sentence(number: int) -> str:
    return f"a {COLOURS[number % 3]} field with {number} blobs"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with `photos` of 20 pictures, `captions.csv` and the network `means.yaml`."""
    write_folder(tmp_path / "photos", {f"{number}.jpg": photo(number) for number in range(20)})
    backbone_yaml(tmp_path / "means.yaml", write_means(tmp_path / "means.onnx"))
    write_captions(tmp_path / "captions.csv", range(20))
    return tmp_path


def write_captions(path: Path, numbers: range) -> None:
    lines = [f"{number},{sentence(number)}\n{number}.jpg,blobs of {number}\n" for number in numbers]
    path.write_text("image,caption\n" + "".join(lines))


def command(*more: object) -> list[object]:
    return ["prepare_data", "--images", "photos", "--backbone", "means.yaml", *more]


def with_captions(*more: object) -> list[object]:
    return command("--captions", "captions.csv", "--out", "data/mine", *more)


def splits_of(folder: Path) -> dict[str, str]:
    with open(folder / "captions_by_split.csv", newline="") as file:
        return {row["image"]: row["split"] for row in csv.DictReader(file)}


def test_one_command_prepares_one_trains_and_one_searches(run_tool, run_quickly, folder) -> None:
    done = run_tool(*with_captions(), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "captions.csv: 40 captions; CSV: pictures from image, captions from caption"
    assert lines[2].startswith("extracting: 20 photos, about 0.0 minutes; 0.0 MB on the disk")
    assert lines[3] == "data/mine/features.h5: 20 pictures, 3 features, float32; ids, image sizes"
    assert lines[4] == "split: 16 train, 2 dev, 2 test photos"
    assert lines[6] == "train:  python tools/train_retrieval.py --cfg_file data/mine/task.yaml"
    assert sorted(path.name for path in (folder / "data" / "mine").iterdir()) == [
        *(
            "captions_by_split.csv",
            "features.h5",
            "photos.json",
            "prepared.json",
            "task.yaml",
            "vocabulary.json",
        )
    ]
    done = run_quickly(
        "train_retrieval", *lines[6].split()[3:], "OPTIMIZATION.EPOCHS=1", "MODEL.EMBED_DIM=8", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    done = run_quickly("measure_floor", *lines[7].split()[3:], cwd=folder)
    assert done.returncode == 0 and (folder / "out/mine/floor_test/result.json").is_file(), done.stderr
    search = ["search_retrieval", *shlex.split(lines[8])[3:]]
    done = run_quickly(*search, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert ".jpg" in done.stdout


def test_all_problems_come_together_and_nothing_is_written(run_quickly, folder) -> None:
    table = folder / "captions.csv"
    table.write_text(table.read_text() + "none.jpg,a dog\n1.jpg,\n2.jpg,...\n")
    write_folder(folder / "photos", {"IMG_1.HEIC": b"x", "broken.jpg": photo(1)[:300]})
    done = run_quickly(*with_captions("--report", "problems.txt"), cwd=folder)
    assert done.returncode == 2
    assert done.stderr == (
        "error: 5 problems, listed above: mend them, or go on without what they concern with --leave_out\n"
    )
    listed = [line for line in done.stdout.splitlines() if line.startswith(("problem", "note", "  "))]
    assert [line.split(":")[1] for line in listed if line.startswith("problem")] == [
        " 1 captions of pictures that are not there",
        " 1 empty captions",
        " 1 captions without a letter",
        " 1 unreadable pictures",
        " 1 photos in formats that are not read",
    ]
    assert "  line 42: none.jpg" in listed and "  IMG_1.HEIC" in listed
    assert (folder / "problems.txt").read_text().splitlines() == listed
    assert not (folder / "data").exists()
    done = run_quickly(*with_captions("--leave_out"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(open_features(folder / "data" / "mine" / "features.h5")) == 20


def test_a_split_that_cannot_be_drawn_hides_no_other_problem(run_quickly, folder) -> None:
    (folder / "lines.jsonl").write_text('{"image": "1.jpg", "caption": "a dog"}\n{"image": "2.jpg"\n')
    lines = "--captions", "lines.jsonl", "--out", "data/mine"
    done = run_quickly(*command(*lines), cwd=folder)
    assert done.returncode == 2 and "problem: 1 rows" in done.stdout and "  line 2: " in done.stdout
    assert done.stderr.startswith("error: 1 problems, listed above")
    done = run_quickly(*command(*lines, "--leave_out"), cwd=folder)
    assert done.returncode == 2 and "problem: 1 rows" in done.stdout
    assert done.stderr.startswith("error: 1 pictures with captions, expected at least one for each of")


def test_a_stopped_preparation_goes_on_and_a_finished_one_is_not_replaced(run_quickly, folder) -> None:
    done = run_quickly(*with_captions(), cwd=folder)
    assert done.returncode == 0, done.stderr
    mine = folder / "data" / "mine"
    wanted = {path.name: path.read_bytes() for path in mine.iterdir()}
    done = run_quickly(*with_captions(), cwd=folder)
    assert done.returncode == 2 and "prepared.json: already there: --add to take new photos" in done.stderr
    shutil.rmtree(mine)
    done = run_forked(INTERRUPT, "SIGKILL", "20", TOOL, *with_captions()[1:], cwd=folder)
    assert done.returncode == -9
    assert not (mine / "prepared.json").exists() and (mine / "features.h5.extraction").is_dir()
    done = run_quickly(*with_captions(), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "going on after 20 of 20 photos" in done.stdout
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == wanted


def test_ctrl_c_says_that_the_same_command_goes_on(run_quickly, folder) -> None:
    done = run_forked(INTERRUPT, "SIGINT", "20", TOOL, *with_captions()[1:], cwd=folder)
    assert done.returncode == 130
    assert done.stderr.endswith("interrupted: the same command goes on where it was\n")
    done = run_quickly(*with_captions(), cwd=folder)
    assert (done.returncode, "going on after 20 of 20 photos" in done.stdout) == (0, True)


def test_added_photos_keep_old_features_and_splits(run_quickly, folder) -> None:
    done = run_quickly(*with_captions(), cwd=folder)
    assert done.returncode == 0, done.stderr
    mine = folder / "data" / "mine"
    before, splits = open_features(mine / "features.h5"), splits_of(mine)
    vectors = before.gather(np.arange(20), pool=False)
    write_folder(folder / "photos", {f"{number}.jpg": photo(number) for number in range(20, 26)})
    (folder / "photos" / "7.jpg").write_bytes(photo(77))
    table = folder / "captions.csv"
    write_captions(table, range(19, 26))  # the new ones, and one that is corrected
    table.write_text(table.read_text().replace(".jpg", ""))
    done = run_quickly(*with_captions("--add"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "extracting: 7 photos" in done.stdout
    after, new_splits = open_features(mine / "features.h5"), splits_of(mine)
    assert sorted(after.image_ids) == sorted(f"{number}.jpg" for number in range(26))
    rows = [line.split(",")[0] for line in (mine / "captions_by_split.csv").read_text().splitlines()]
    assert rows.count("19.jpg") == rows.count("3.jpg") == rows.count("25.jpg") == 2
    for name in before.image_ids:
        same = (after[after.row_of[name]].features == vectors[before.row_of[name]]).all()
        assert same == (name != "7.jpg")
    assert {name: new_splits[name] for name in splits} == splits and len(new_splits) == 26
    done = run_quickly(*with_captions("--add"), cwd=folder)
    assert done.returncode == 0 and "extracting" not in done.stdout


def test_photos_are_not_added_to_features_that_are_gone(run_quickly, folder) -> None:
    assert run_quickly(*with_captions(), cwd=folder).returncode == 0
    (folder / "data" / "mine" / "features.h5").unlink()
    write_folder(folder / "photos", {"20.jpg": photo(20)})
    done = run_quickly(*with_captions("--add"), cwd=folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "data/mine/features.h5: no such file, but --add adds to it: put it back, or --overwrite"
        in done.stderr
    )
    assert not list((folder / "data" / "mine").glob("*.extraction"))


@pytest.mark.skipif(not has_bfloat16(), reason="no instructions for bfloat16 here")
def test_added_photos_have_the_precision_of_the_others(run_quickly, folder) -> None:
    backbone_yaml(folder / "means.yaml", write_convolutions(folder / "convolutions.onnx"))
    done = run_quickly(*with_captions("--precision", "bfloat16"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert open_features(folder / "data" / "mine" / "features.h5").extraction["precision"] == "bfloat16"
    write_folder(folder / "photos", {"20.jpg": photo(20)})
    write_captions(folder / "captions.csv", range(21))
    done = run_quickly(*with_captions("--add"), cwd=folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "give --backbone means.yaml --precision bfloat16, or --overwrite" in done.stderr
    done = run_quickly(*with_captions("--add", "--precision", "bfloat16"), cwd=folder)
    assert done.returncode == 0 and "extracting: 1 photos" in done.stdout


def test_without_captions_there_is_a_gallery(run_quickly, folder) -> None:
    done = run_quickly(*command("--out", "gallery"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "--cfg_file RUN --gallery gallery/features.h5" in done.stdout.splitlines()[-1]
    assert open_features(folder / "gallery" / "features.h5").image_ids == sorted(
        f"{number}.jpg" for number in range(20)
    )
    assert json.loads((folder / "gallery" / "prepared.json").read_text())["splits"] == {}


def test_files_of_the_users_own_are_never_replaced_unasked(run_quickly, folder) -> None:
    write_folder(folder / "data" / "mine", {"vocabulary.json": b"mine"})
    done = run_quickly(*with_captions(), cwd=folder)
    assert done.returncode == 2
    assert "data/mine/vocabulary.json: already there: --add to take new photos, --overwrite" in done.stderr
    assert (folder / "data" / "mine" / "vocabulary.json").read_bytes() == b"mine"


MISTAKES = {
    "no table": (["--captions", "none.csv", "--out", "a"], "none.csv: no such file, expected the captions"),
    "no photos": (["--images", "none", "--out", "a"], "none: no such folder, expected one with pictures"),
    "nothing to add to": (
        ["--out", "a", "--add"],
        "a/prepared.json: No such file or directory: --add expects",
    ),
    "shares": (["--out", "a", "--shares", "0.5", "0.4"], "--shares: expected 0.8 together at most"),
    "a file to write into": (["--out", "captions.csv"], "--out captions.csv: a file, expected a folder"),
    "two ways": (["--out", "a", "--add", "--overwrite"], "expected one of --add and --overwrite, got both"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(run_quickly, folder, case) -> None:
    options, message = MISTAKES[case]
    done = run_quickly(*command(*options), cwd=folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message in done.stderr and not (folder / "a").exists()
