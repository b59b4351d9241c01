"""Oscar from the command line: Scenes, VinVL's layout and commands, resuming, input that it cannot use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.runs.checkpoint import read_arrays
from engine.runs.run_folder import read_log
from engine.weights.bert_names import original_names
from models.bert import BertShape
from models.oscar import Oscar
from tests.forks import run_forked
from tests.region_files import NAMES, make_regions, write_tsv

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"BERT_DIM": 12, "BERT_LAYERS": 2, "BERT_HEADS": 2, "BERT_INNER_DIM": 24, "BERT_POSITIONS": 70}
SMALL = [f"MODEL.{name}={value}" for name, value in SIZES.items()]
WIDTH = 2054


@pytest.fixture
def oscar(tiny_run):
    """Return a function from a folder to the arguments of a small run of Oscar in `<folder>/run`.

    An epoch has 6 steps.
    """

    def oscar(folder: Path) -> list[str]:
        config = str(ROOT / "configs" / "scenes" / "oscar.yaml")
        short = ["MONITOR.EVAL_FREQ=1", "MONITOR.DEV_IMAGES=4", "NEGATIVES.RANDOM_EPOCHS=0"]
        shared = [word for word in tiny_run(folder)[2:] if not word.startswith("MODEL.")]
        return ["--cfg_file", config, *shared, *SMALL, *short]

    return oscar


def one_line(done, *expected: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in expected), done.stderr


def same_weights(first: Path, second: Path) -> None:
    for file in ("model.safetensors", "trainer.safetensors"):
        expected, found = (read_arrays(run / "last", file) for run in (first, second))
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.mark.parametrize(
    ("kind", "count", "words", "batch"),
    [("random", 2, 0, 30), ("neighbours", 3, 0.5, 30), ("batch", 1, 0, 12)],  # of `batch`, pairs are 12 x 12
)
def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(
    oscar, run_quickly, run_interrupted, tmp_path, kind, count, words, batch
):
    settings = [
        *(f"NEGATIVES.KIND={kind}", f"NEGATIVES.COUNT={count}", f"LOSS.WORD_WEIGHT={words}"),
        *("NEGATIVES.SHARE=0.5", "MODEL.BERT_DROPOUT=0.1"),
        *("MODEL.BERT_ATTENTION_DROPOUT=0.1", "OPTIMIZATION.GRADIENT_ACCUMULATION_STEPS=2"),
        *("OPTIMIZATION.EMA_DECAY=0.9", "OUTPUT.SAVE_STEP=2", "OUTPUT.SAVE_FREQ=1"),
        *("OPTIMIZATION.EPOCHS=2", f"OPTIMIZATION.BATCH_SIZE={batch}"),
    ]
    undisturbed = run_quickly("train_retrieval", *oscar(tmp_path / "a"), *settings)
    assert undisturbed.returncode == 0 and undisturbed.stderr == "", undisturbed.stderr
    killed = run_interrupted("SIGKILL", 5, "train_retrieval", *oscar(tmp_path / "b"), *settings)
    assert killed.returncode == -9, killed.stderr
    resumed = run_quickly("train_retrieval", *oscar(tmp_path / "b"), *settings, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    same_weights(tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert (tmp_path / "b" / "run" / "epoch_2" / "vocab.txt").is_file()


def test_threads_that_prepare_batches_change_nothing(oscar, run_quickly, tmp_path):
    for side, workers in (("a", 0), ("b", 2)):
        settings = ["OPTIMIZATION.EPOCHS=1", f"MISC.NUM_WORKERS={workers}"]
        done = run_quickly("train_retrieval", *oscar(tmp_path / side), *settings)
        assert done.returncode == 0, done.stderr
    same_weights(tmp_path / "a" / "run", tmp_path / "b" / "run")


def test_negatives_are_mined_from_a_dual_encoder(oscar, tiny_run, run_quickly, tmp_path):
    epoch = "OPTIMIZATION.EPOCHS=1"
    done = run_quickly("train_retrieval", *tiny_run(tmp_path / "dual"), epoch)
    assert done.returncode == 0, done.stderr
    mined = ["NEGATIVES.KIND=mined", f"NEGATIVES.DUAL={tmp_path / 'dual' / 'run' / 'best'}", epoch]
    done = run_quickly("train_retrieval", *oscar(tmp_path / "cross"), *mined)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    other = [*oscar(tmp_path / "other"), epoch]
    of_a_cross_encoder = ["NEGATIVES.KIND=mined", f"NEGATIVES.DUAL={tmp_path / 'cross' / 'run' / 'best'}"]
    one_line(
        run_quickly("train_retrieval", *other, *of_a_cross_encoder),
        *("NEGATIVES.DUAL: expected the checkpoint of a dual encoder", "run of oscar"),
    )
    one_line(
        run_quickly("train_retrieval", *other, "NEGATIVES.KIND=mined", f"NEGATIVES.DUAL={tmp_path}/dual/run"),
        *("NEGATIVES.DUAL", "is a run; name a checkpoint of it"),
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("loss", "labels"), [("binary", 2), ("binary", 1), ("regression", 1)])
def test_each_loss_trains(oscar, run_quickly, tmp_path, loss, labels):
    settings = [f"LOSS.NAME=match_{loss}", f"OUTPUT.NUM_LABELS={labels}", "MODEL.CLASSIFIER=mlp"]
    done = run_quickly("train_retrieval", *oscar(tmp_path), *settings, "OPTIMIZATION.EPOCHS=1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert read_arrays(tmp_path / "run" / "best", "model.safetensors")["classifier.2.bias"].shape == (labels,)


def test_training_starts_from_a_checkpoint_with_its_words(oscar, run_quickly, tmp_path):
    done = run_quickly("train_retrieval", *oscar(tmp_path / "a"), "OPTIMIZATION.EPOCHS=1")
    assert done.returncode == 0, done.stderr
    best = tmp_path / "a" / "run" / "best"
    from_there = [*oscar(tmp_path / "b"), f"PRETRAINED.DIR={best}", "OPTIMIZATION.EPOCHS=1"]
    done = run_quickly("train_retrieval", *from_there, "OPTIMIZATION.LR=1e-9")
    assert done.returncode == 0, done.stderr
    before = read_arrays(best, "model.safetensors")
    after = read_arrays(tmp_path / "b" / "run" / "last", "model.safetensors")
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert (tmp_path / "b" / "run" / "vocab.txt").read_bytes() == (best / "vocab.txt").read_bytes()
    deeper = [*oscar(tmp_path / "c"), f"PRETRAINED.DIR={best}", "MODEL.BERT_LAYERS=3"]
    one_line(run_quickly("train_retrieval", *deeper), str(best), "lacks bert.layers.2")
    assert not (tmp_path / "c").exists()


@pytest.fixture(scope="module")
def vinvl(tmp_path_factory) -> Path:
    """Return a folder in which retrieval_train.yaml's paths are those of a small data set and model."""
    root = tmp_path_factory.mktemp("vinvl")
    data = root / "data" / "coco_ir"
    (data / "model_0060000").mkdir(parents=True)
    images = make_regions([4, 3, 5, 2, 4, 3, 5, 4, 3, 2], dim=WIDTH)
    write_tsv(data / "model_0060000" / "features.tsv", images, "vinvl")
    keys = list(images)
    random = np.random.default_rng(0)
    words = [*NAMES, "two", "a", "old", "near"]
    for split, members in (("train", keys[:6]), ("minival", keys[6:8]), ("test", keys[8:])):
        captions = {key: [" ".join(random.choice(words, 5)) for _ in range(6)] for key in members}
        (data / f"{split}_captions.json").write_text(json.dumps(captions))
    index = {key: [[other, n] for other in keys[6:8] for n in range(6)] for key in keys[6:8]}
    (data / "minival_caption_indexs_top20.json").write_text(json.dumps(index))
    (data / "test_img_keys_1k.tsv").write_text("".join(f"{key}\n" for key in keys[8:]))
    write_bert(root / "data" / "vinvl_base", words)
    return root


def write_bert(folder: Path, words: list[str], **changes: object) -> None:
    """Write a BERT of the sizes above, without regions and classifier."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *{word.replace("é", "e"): 0 for word in words}]
    shape = BertShape(
        vocab_size=len(pieces),
        hidden_dim=SIZES["BERT_DIM"],
        num_layers=SIZES["BERT_LAYERS"],
        num_heads=SIZES["BERT_HEADS"],
        inner_dim=SIZES["BERT_INNER_DIM"],
        max_positions=SIZES["BERT_POSITIONS"],
    )
    arrays = {}
    for name, parameter in Oscar(shape).bert.named_parameters(prefix="bert"):
        linear = parameter.ndim == 2 and "embeddings" not in name
        array = parameter.numpy().T if linear else parameter.numpy()
        originals = original_names(name)
        for original, part in zip(originals, np.split(array, len(originals)), strict=True):
            arrays[original] = np.ascontiguousarray(part)
    config = {
        "vocab_size": len(pieces),
        "hidden_size": shape.hidden_dim,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.inner_dim,
        "max_position_embeddings": shape.max_positions,
        "type_vocab_size": 2,
    }
    folder.mkdir(parents=True)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))


QUICK = [*SMALL, "OPTIMIZATION.BATCH_SIZE=6", "MONITOR.PRINT_STEP=1", "RUNTIME.DEVICE=cpu"]


def test_the_commands_of_vinvl_train_and_evaluate(vinvl, run_quickly):
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    tool = [ROOT / "tools" / "train_retrieval.py", "--cfg_file", ROOT / "configs" / "retrieval_train.yaml"]
    done = run_forked(*launch, *tool, *QUICK, "OPTIMIZATION.EPOCHS=3", cwd=vinvl)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights: data/vinvl_base; new: bert.regions, classifier" in done.stdout
    run = vinvl / "out" / "vinvl_coco_ir"
    records = read_log(run / "log.jsonl")
    steps = [record for record in records if record["event"] == "train"]
    assert len(steps) == 3 * 3, "30 captions, five an image, in batches of 2 x 6"
    assert [record["step"] for record in records if record["event"] == "validation"] == [3, 6, 9]
    assert steps[0]["lr"] == pytest.approx(2e-5 * 8 / 9) and steps[-1]["lr"] == 0
    assert all((run / f"epoch_{epoch}" / "vocab.txt").is_file() for epoch in (1, 2, 3))
    test = ["--cfg_file", ROOT / "configs" / "retrieval_test.yaml", *QUICK]
    done = run_quickly("eval_retrieval", *test, cwd=vinvl)
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "eval_test" / "result.json").read_text())
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (2, 10)
    more = [*QUICK, "OPTIMIZATION.EPOCHS=4", "PRETRAINED.RESUME=true"]
    resumed = run_quickly("train_retrieval", *tool[1:], *more, cwd=vinvl)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming with batches of 6 from 1 process, before it was 12 from 2 processes" in resumed.stdout
    steps = [record for record in read_log(run / "log.jsonl") if record["event"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 3 * 3 + 5 + 1))
    assert steps[-1]["epoch"] == 4


def without_a_tag(root: Path) -> None:
    path = root / "data" / "coco_ir" / "model_0060000" / "predictions.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("image 3\t")))
    path.with_suffix(".lineidx").unlink(missing_ok=True)


def without_a_key(root: Path) -> None:
    path = root / "data" / "coco_ir" / "minival_captions.json"
    captions = json.loads(path.read_text())
    path.write_text(json.dumps({key: captions[key] for key in list(captions)[1:]}))


def without_an_image(root: Path) -> None:
    (root / "data" / "coco_ir" / "minival_keys.tsv").write_text("image 6\nimage 9\n")


def past_the_captions(root: Path) -> None:
    path = root / "data" / "coco_ir" / "minival_caption_indexs_top20.json"
    path.write_text(json.dumps({f"image {n}": [["image 6", 0], ["image 7", 6]] for n in (6, 7)}))


def with_other_words(root: Path) -> None:
    path = root / "data" / "vinvl_base" / "vocab.txt"
    path.write_text(path.read_text() + "surplus\n")


def of_another_depth(root: Path) -> None:
    shutil.rmtree(root / "data" / "vinvl_base")
    write_bert(root / "data" / "vinvl_base", NAMES, num_hidden_layers=3)


def untouched(root: Path) -> None:
    """Damage nothing."""


@pytest.mark.parametrize(
    ("damage", "options", "expected"),
    [
        (without_a_tag, [], ["predictions.tsv", "no line for the image 'image 3'"]),
        (without_a_key, [], ["minival_caption_indexs_top20.json", "no image 'image 6'"]),
        (
            without_an_image,
            ["EVAL.EVAL_IMG_KEYS_FILE=minival_keys.tsv"],
            ["minival_captions.json: no captions of the image 'image 9'", "minival_keys.tsv lists on line 2"],
        ),
        (past_the_captions, [], ["key 'image 6', entry 2 is ['image 7', 6]", "6 captions"]),
        (untouched, ["INPUT.IMG_FEATURE_DIM=2048"], ["features.tsv", "2054 wide", "IMG_FEATURE_DIM is 2048"]),
        (with_other_words, [], ["word_embeddings", "the vocabulary must be the weights' own"]),
        (of_another_depth, [], ["config.json", "add MODEL.BERT_LAYERS=3"]),
        (of_another_depth, ["MODEL.BERT_LAYERS=3"], ["model.safetensors: it has 2 layers, the model 3"]),
        (untouched, ["PRETRAINED.DIR=data/nowhere"], ["data/nowhere: no config.json", "fetch_pretrained.py"]),
        (untouched, ["INPUT.MAX_SEQ_LEN=2"], ["INPUT.MAX_SEQ_LEN: expected 3 to 70", "got 2"]),
    ],
    ids=[
        *("a tag file without an image", "candidates of an image that is not there", "captions miss a key"),
        *("an index past the captions", "features wider than configured", "words that do not fit"),
        *("another depth", "another depth than config.json says", "no weights", "no room for a token"),
    ],
)
def test_what_does_not_fit_is_one_line(vinvl, run_quickly, tmp_path, damage, options, expected):
    root = tmp_path / "here"
    shutil.copytree(vinvl / "data", root / "data")
    damage(root)
    arguments = ["--cfg_file", ROOT / "configs" / "retrieval_train.yaml", *QUICK, *options]
    one_line(run_quickly("train_retrieval", *arguments, cwd=root), *expected)
    assert not (root / "out").exists()


def test_a_checkpoint_of_another_depth_is_not_evaluated(oscar, run_quickly, tmp_path):
    done = run_quickly("train_retrieval", *oscar(tmp_path), "OPTIMIZATION.EPOCHS=1")
    assert done.returncode == 0, done.stderr
    config = ["--cfg_file", tmp_path / "run" / "config.yaml"]
    one_line(run_quickly("eval_retrieval", *config, "MODEL.BERT_LAYERS=1"), "unexpected bert.layers.1")
    (tmp_path / "run" / "best" / "vocab.txt").unlink()
    one_line(run_quickly("eval_retrieval", *config), "lacks vocab.txt")
