"""Features are converted from the command line, whatever happens on the way, and trained on afterwards."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.features.formats import open_features
from tests.forks import run_forked
from tests.region_files import make_regions, write_tsv

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT = Path(__file__).with_name("interrupt_conversion.py")
COUNTS = [3, 1, 12, 7, 5, 2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tsv(tmp_path) -> Path:
    """Return an LXMERT file of six images, with its index."""
    path = write_tsv(tmp_path / "features.tsv", make_regions(COUNTS), "lxmert")
    open_features(path)
    return path


def test_a_gzipped_tsv_becomes_hdf5_and_says_what_was_kept(run_tool, tsv):
    packed = tsv.with_name("features.tsv.gz")
    packed.write_bytes(gzip.compress(tsv.read_bytes()))
    done = run_tool("convert_features", "features.tsv.gz", "out/a.h5", "--dtype", "float16", cwd=tsv.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == (
        "out/a.h5: 6 images, 1 to 12 regions x 6 features, float16; "
        "ids, boxes, image sizes, tags with confidences"
    )
    assert "50% saved" in done.stdout and "compared: largest error" in done.stdout
    store = open_features(tsv.parent / "out/a.h5")
    np.testing.assert_array_equal(
        store[2].features, make_regions(COUNTS)["image 2"].features.astype(np.float16)
    )
    assert [path.name for path in (tsv.parent / "out").iterdir()] == ["a.h5"]


def test_regions_go_to_hdf5_and_back_to_the_same_files(run_quickly, tmp_path):
    images = make_regions([4, 4, 4])
    write_tsv(tmp_path / "features.tsv", images, "vinvl")
    for command in (
        ("features.tsv", "dev_ims.npy"),
        ("dev_ims.npy", "a.h5", "--dtype", "float32"),
        ("a.h5", "again_ims.npy"),
    ):
        done = run_quickly("convert_features", *command, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "values equal the source's, bit for bit" in done.stdout
    for name in ("ims.npy", "boxes.npy", "sizes.npy", "ids.txt", "tags.txt"):
        assert (tmp_path / f"again_{name}").read_bytes() == (tmp_path / f"dev_{name}").read_bytes()
    assert open_features(tmp_path / "a.h5").image_ids == list(images)
    store = open_features(tmp_path / "again_ims.npy")
    assert [store.annotations(row).image_size for row in range(3)] == [
        regions.image_size for regions in images.values()
    ]


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("target", ["a.h5", "a.npy"])
def test_a_stopped_conversion_goes_on_to_the_same_bytes(run_quickly, tmp_path, name, code, target):
    write_tsv(tmp_path / "features.tsv", make_regions([4] * 6), "lxmert")
    folder, whole = tmp_path / "out", tmp_path / "whole"
    assert run_quickly("convert_features", "features.tsv", whole / target, cwd=tmp_path).returncode == 0
    tool = ROOT / "tools" / "convert_features.py"
    for images in (2, 4):
        stopped = run_forked(INTERRUPT, name, images, tool, "features.tsv", folder / target, cwd=tmp_path)
        assert stopped.returncode == code, stopped.stderr
        assert [path.name for path in folder.iterdir()] == [f"{target}.partial"]
    done = run_quickly("convert_features", "features.tsv", folder / target, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.h5.partial: going on after 4 of 6 images" in done.stdout.replace("a.npy", "a.h5")
    assert contents(folder) == contents(whole)


def damaged(change: Callable[[str], str], name: str = "features.tsv") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
        np.save(folder / "a.npy", change(values))

    return damage


def with_nan(values: np.ndarray) -> np.ndarray:
    values[2, 1, 0] = np.nan
    return values


def hdf5(folder: Path) -> None:
    """Leave half of an HDF5 file."""
    path = folder / "half.h5"
    shutil.copy(folder / "kept.h5", path)
    path.write_bytes(path.read_bytes()[:700])


MISTAKES = {
    "no such file": (lambda folder: None, ["none.tsv", "b.h5"], ["none.tsv: no such file"]),
    "no format to read": (
        lambda folder: None,
        ["kept.txt", "b.h5"],
        ["kept.txt: expected a file of features"],
    ),
    "no format to write": (lambda folder: None, ["features.tsv", "b.txt"], ["b.txt: expected a name", ".h5"]),
    "a file in the way": (lambda folder: None, ["features.tsv", "kept.h5"], ["kept.h5: already there"]),
    "ids in the way": (array(np.copy), ["a.npy", "kept.npy"], ["kept_ids.txt: already there", "--overwrite"]),
    "onto itself": (
        lambda folder: None,
        ["kept.h5", "kept.h5", "--overwrite"],
        ["kept.h5: this would replace INPUT"],
    ),
    "a folder in the way": (
        lambda folder: (folder / "b.h5").mkdir(),
        ["features.tsv", "b.h5", "--overwrite"],
        ["b.h5: this is a folder"],
    ),
    "ragged regions to npy": (
        lambda folder: None,
        ["features.tsv", "b.npy"],
        ["b.npy: images have 1 to 12 regions"],
    ),
    "int8 to npy": (array(np.copy), ["a.npy", "b.npy", "--dtype", "int8"], ["b.npy: int8 needs its scales"]),
    "an unknown type": (
        lambda folder: None,
        ["kept.h5", "b.h5", "--dtype", "int4"],
        ["--dtype: invalid choice"],
    ),
    "ids too few": (
        lambda folder: None,
        ["features.tsv", "b.h5", "--ids", "kept_ids.txt"],
        ["kept_ids.txt: 1 image ids", "6 rows of features.tsv"],
    ),
    "a truncated TSV": (damaged(lambda text: text[:-50]), ["features.tsv", "b.h5"], ["features.tsv line 6"]),
    "bad base64": (
        damaged(lambda text: text[:-10] + "!" + text[-9:]),
        ["features.tsv", "b.h5"],
        ["features.tsv line 6: bad base64 in the column features"],
    ),
    "a count that lies": (
        damaged(lambda text: text.replace("\t12\t", "\t11\t")),
        ["features.tsv", "b.h5"],
        ["features.tsv line 3: 11 boxes, but"],
    ),
    "an id twice": (
        damaged(lambda text: text.replace("image 4", "image 1")),
        ["features.tsv", "b.h5"],
        ["features.tsv line 5: duplicate image id 'image 1', also line 2"],
    ),
    "an index of another file": (
        damaged(lambda text: text.replace("0", "1"), "features.lineidx"),
        ["features.tsv", "b.h5"],
        ["features.lineidx line", "delete it"],
    ),
    "NaN": (array(with_nan), ["a.npy", "b.h5"], ["a.npy: row 3 holds NaN or infinity"]),
    "beyond float16": (
        array(lambda values: values * 1e4),
        ["a.npy", "b.h5", "--dtype", "float16"],
        ["a.npy: row 2 holds 70000, which float16 cannot"],
    ),
    "a truncated HDF5 file": (hdf5, ["half.h5", "b.npy"], ["half.h5: cut short"]),
    "a truncated .npy": (
        lambda folder: (
            array(np.copy)(folder),
            (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:150]),
        ),
        ["a.npy", "b.h5"],
        ["a.npy: cut short"],
    ),
    "a gzipped file cut short": (
        lambda folder: (folder / "a.tsv.gz").write_bytes(
            gzip.compress((folder / "features.tsv").read_bytes())[:-20]
        ),
        ["a.tsv.gz", "b.h5"],
        ["a.tsv.gz: cut short or damaged"],
    ),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Return a folder with a TSV file and outputs of before, which nobody may change."""
    folder = tmp_path_factory.mktemp("work")
    open_features(write_tsv(folder / "features.tsv", make_regions(COUNTS), "lxmert"))
    (folder / "kept_ids.txt").write_text("an id\n")
    (folder / "kept.txt").write_text("text")
    import h5py

    with h5py.File(folder / "kept.h5", "w") as file:
        file["features"] = np.ones((3, 2), np.float32)
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(work, run_quickly, tmp_path, name):
    damage, arguments, says = MISTAKES[name]
    folder = tmp_path / "here"
    shutil.copytree(work, folder)
    damage(folder)
    before = contents(folder)
    done = run_quickly("convert_features", *arguments, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in says), done.stderr
    assert contents(folder) == before and not list(folder.glob("*.partial"))


def test_overwriting_replaces_all_files_of_the_target(work, run_quickly, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(work, folder)
    array(np.copy)(folder)
    done = run_quickly("convert_features", "a.npy", "kept.npy", "--overwrite", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "kept.npy").is_file() and not (folder / "kept_ids.txt").exists()


def test_a_source_that_breaks_half_way_leaves_nothing(work, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(work, folder)
    lines = (folder / "features.tsv").read_text().splitlines(keepends=True)
    lines[4] = f"{lines[4][:-20]}!{lines[4][-19:]}"
    (folder / "features.tsv").write_text("".join(lines))
    tool = ROOT / "tools" / "convert_features.py"
    done = run_forked(INTERRUPT, "SIGINT", "-1", tool, "features.tsv", "b.h5", cwd=folder)
    assert done.returncode == 2 and "features.tsv line 5: bad base64" in done.stderr
    assert not list(folder.glob("b.h5*"))


@pytest.fixture(scope="module")
def splits(write_split, tmp_path_factory) -> Path:
    """Return a folder with captions, and the region features of all splits in one TSV file."""
    folder = tmp_path_factory.mktemp("splits")
    images = {}
    for number, (split, count) in enumerate([("test", 4), ("train", 12), ("dev", 5)]):
        write_split(folder, split, count, 6, captions_per_image=2, ids=True)
        (folder / f"{split}_ims.npy").unlink()
        regions = make_regions([number + 1 + index % 3 for index in range(count)])
        images |= {f"{split}_{index}": regions[f"image {index}"] for index in range(count)}
    write_tsv(folder / "features.tsv", images, "bottom_up")
    return folder


TINY = [
    "--cfg_file",
    ROOT / "configs" / "f8k" / "vsepp.yaml",
    "DATASET.DATA_DIR=.",
    "INPUT.IMG_FEATURE_DIM=6",
    "INPUT.VOCAB_THRESHOLD=1",
    "MODEL.EMBED_DIM=8",
    "MODEL.WORD_DIM=8",
    "OPTIMIZATION.EPOCHS=1",
    "OPTIMIZATION.BATCH_SIZE=8",
    "RUNTIME.DEVICE=cpu",
]


def test_one_file_serves_all_splits_in_any_format(splits, run_quickly, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(splits, folder)
    assert run_quickly("convert_features", "features.tsv", "all.h5", cwd=folder).returncode == 0
    results = {}
    for name in ("features.tsv", "all.h5"):
        options = [*TINY, f"DATASET.FEAT_FILE={name}", f"OUTPUT.SAVE_NAME={name}"]
        trained = run_quickly("train_retrieval", *options, cwd=folder)
        assert trained.returncode == 0, trained.stderr
        assert "train: 12 images (2 to 4 regions x 6 features)" in trained.stdout, trained.stdout
        assert run_quickly("eval_retrieval", *options, cwd=folder).returncode == 0
        results[name] = (folder / "out" / name / "best" / "model.safetensors").read_bytes()
    assert results["features.tsv"] == results["all.h5"]


TRAINING_MISTAKES = {
    "no such file": (
        lambda folder: None,
        ["DATASET.FEAT_FILE=none.tsv"],
        ["none.tsv: no such file", "FEAT_FILE"],
    ),
    "an image without features": (
        damaged(lambda text: text.replace("train_3.jpg", "train_33"), "train_ids.txt"),
        [],
        ["features.tsv: no row for the image 'train_33' of train_ids.txt"],
    ),
    "an id without captions": (
        damaged(lambda text: text + "test_1.jpg\n", "train_ids.txt"),
        [],
        ["train_caps.txt: 24 captions for the 13 images of train_ids.txt", "2 lines missing"],
    ),
    "no ids": (
        lambda folder: (folder / "train_ids.txt").unlink(),
        [],
        ["train_ids.txt: no such file, expected the image ids"],
    ),
    "an id twice": (
        damaged(lambda text: text.replace("train_3.jpg", "train_2.jpg"), "train_ids.txt"),
        [],
        ["train_ids.txt line 4: duplicate image id 'train_2.jpg'"],
    ),
    "another width": (
        lambda folder: None,
        ["INPUT.IMG_FEATURE_DIM=8"],
        ["features.tsv: features are 6 wide"],
    ),
    "a gzipped file": (
        lambda folder: (folder / "f.tsv.gz").write_bytes(b"\x1f\x8b"),
        ["DATASET.FEAT_FILE=f.tsv.gz"],
        ["f.tsv.gz: rows of a compressed file", "gunzip it", "tools/convert_features.py"],
    ),
}


@pytest.mark.parametrize("name", TRAINING_MISTAKES)
def test_features_that_training_cannot_use_are_one_line(splits, run_quickly, tmp_path, name):
    damage, options, says = TRAINING_MISTAKES[name]
    folder = tmp_path / "here"
    shutil.copytree(splits, folder)
    open_features(folder / "features.tsv")
    damage(folder)
    before = contents(folder)
    done = run_quickly("train_retrieval", *TINY, "DATASET.FEAT_FILE=features.tsv", *options, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in says), done.stderr
    assert contents(folder) == before
