"""A run survives what happens to it: signals, a full disk, a second run, damaged and foreign checkpoints."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine.runs.run_folder import RunFolder, read_log

EVERYTHING = [
    "MODEL.TEXT_DROPOUT=0.2",
    "MODEL.IMAGE_DROPOUT=0.1",
    "OPTIMIZATION.EMA_DECAY=0.9",
    "OPTIMIZATION.EPOCHS=4",
    "LOSS.SUM_EPOCHS=2",
    "OUTPUT.SAVE_STEP=5",
    "OUTPUT.SAVE_FREQ=1",
    "OUTPUT.KEEP_MAX=2",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(done, *expected: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in expected), done.stderr


@pytest.fixture(scope="module")
def undisturbed(run_tool, tiny_run, tmp_path_factory) -> Path:
    """Return the folder of a run with dropout and weight averaging that nothing happened to: 24 steps."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = run_tool("train_retrieval", *tiny_run(out), *EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stdout and "\x1b" not in done.stdout and done.stderr == "", (
        "plain lines in a file"
    )
    assert "left 0:00" in done.stdout and "done: best rsum" in done.stdout
    return out / "run"


def same_run(folder: Path, undisturbed: Path) -> None:
    """Assert that two runs hold the same weights, bit for bit, and the same history."""
    for name in ("best", "last", "epoch_3", "epoch_4"):
        for file in ("model.safetensors", "trainer.safetensors"):
            ours, theirs = (run / name / file for run in (folder, undisturbed))
            assert ours.read_bytes() == theirs.read_bytes(), f"{name}/{file}"
        ours, theirs = (json.loads((run / name / "state.json").read_text()) for run in (folder, undisturbed))
        assert ours["progress"] == theirs["progress"], name
        assert ours["watchers"] == theirs["watchers"] and "collapse_guard" in ours["watchers"], name
    assert not (folder / "epoch_2").exists(), "pruned"
    ours, theirs = (history(run, "train") for run in (folder, undisturbed))
    assert ours == theirs, "each step once, with the same loss"
    assert history(folder, "validation") == history(undisturbed, "validation")


def history(folder: Path, event: str) -> list[dict]:
    fleeting = ("time", "samples_per_second")
    records = [record for record in read_log(folder / "log.jsonl") if record["event"] == event]
    return [{key: value for key, value in record.items() if key not in fleeting} for record in records]


def test_a_run_stopped_by_every_signal_ends_bit_for_bit_like_an_undisturbed_one(
    undisturbed, tiny, run_quickly, run_interrupted, tmp_path
):
    run = tmp_path / "run"
    killed = run_interrupted("SIGKILL", 8, "train_retrieval", *tiny, *EVERYTHING)
    assert killed.returncode == -9
    assert step_of(run) == 6, "the last checkpoint is that of the epoch"
    assert history(run, "train")[-1]["step"] == 8, "and the log is ahead of it"

    threads = "MISC.NUM_WORKERS=2"  # threads change nothing, and end with the run
    terminated = run_interrupted("SIGTERM", 13, "train_retrieval", *tiny, *EVERYTHING, threads, "--resume")
    assert terminated.returncode == 143, terminated.stderr
    assert "Traceback" not in terminated.stderr and "stopping after this step" in terminated.stderr
    assert "stopped by SIGTERM at step 14; saved, --resume goes on" in terminated.stdout
    assert step_of(run) == 14, "the step at hand is finished"

    # A signal right after an epoch's last step comes while the dev split is measured.
    interrupted = run_interrupted("SIGINT", 18, "train_retrieval", *tiny, *EVERYTHING, "--resume")
    assert interrupted.returncode == 130, interrupted.stderr
    assert "Traceback" not in interrupted.stderr and "press Ctrl-C again" in interrupted.stderr
    assert step_of(run) == 18 and history(run, "validation")[-1]["step"] == 12, "not measured to its end"

    resumed = run_quickly("train_retrieval", *tiny, *EVERYTHING, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    same_run(run, undisturbed)
    stops = [record["step"] for record in read_log(run / "log.jsonl") if record["event"] == "stopped"]
    assert stops == [14, 18]


def step_of(run: Path) -> int:
    return json.loads((run / "last" / "state.json").read_text())["progress"]["step"]


def test_a_full_disk_ends_with_one_line_and_the_run_goes_on_later(
    undisturbed, tiny, run_quickly, run_interrupted, tmp_path
):
    full = run_interrupted("full:10000", 7, "train_retrieval", *tiny, *EVERYTHING)
    one_line(full, "cannot write checkpoint", "last", "the checkpoint before it is intact", "--resume")
    assert step_of(tmp_path / "run") == 6
    assert not list((tmp_path / "run").glob(".*.new")), "nothing half-written stays"
    resumed = run_quickly("train_retrieval", *tiny, *EVERYTHING, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    same_run(tmp_path / "run", undisturbed)


def test_a_second_ctrl_c_leaves_at_once(tiny, run_interrupted, tmp_path):
    done = run_interrupted("SIGINT,SIGINT", 3, "train_retrieval", *tiny)
    assert done.returncode == 130
    assert done.stderr.endswith("interrupted\n") and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "last").exists(), "without saving"


def test_a_run_that_is_there_is_not_lost(undisturbed, tiny, run_quickly):
    here = [*tiny, f"OUTPUT.CHECKPOINT_DIR={undisturbed.parent}"]
    before = contents(undisturbed)
    one_line(
        run_quickly("train_retrieval", *here, *EVERYTHING), "already holds a run", "--resume", "--overwrite"
    )
    occupied = RunFolder(undisturbed)
    occupied.open_for_training(resume=True, overwrite=False)
    try:
        one_line(run_quickly("train_retrieval", *here, "--resume"), "another process is training in")
    finally:
        occupied._lock.close()
    assert contents(undisturbed) == before


def test_a_finished_run_resumes_to_nothing_and_with_more_epochs_goes_on(
    undisturbed, tiny, run_quickly, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = contents(tmp_path / "run")
    finished = run_quickly("train_retrieval", *tiny, *EVERYTHING, "--resume")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines()[-1] == (
        f"nothing left to train in {tmp_path}/run: all 4 epochs are done; to go on, raise "
        "OPTIMIZATION.EPOCHS, as in --resume OPTIMIZATION.EPOCHS=8"
    )
    assert contents(tmp_path / "run") == before

    longer = run_quickly("train_retrieval", *tiny, *EVERYTHING, "OPTIMIZATION.EPOCHS=5", "--resume")
    assert longer.returncode == 0, longer.stderr
    assert "resuming with changed OPTIMIZATION.EPOCHS" in longer.stdout
    assert step_of(tmp_path / "run") == 30
    assert [record["step"] for record in history(tmp_path / "run", "train")] == list(range(1, 31))

    data = next(word for word in tiny if str(word).startswith("DATASET.DATA_DIR=")).partition("=")[2]
    shutil.copytree(data, tmp_path / "other")
    captions = tmp_path / "other/train_caps.txt"
    captions.write_text("the " + captions.read_text())
    options = [
        f"DATASET.DATA_DIR={tmp_path / 'other'}",
        "OPTIMIZATION.EPOCHS=6",
        "DATASET.IMAGE_DIR=pictures",
    ]
    changed = run_quickly("train_retrieval", *tiny, *EVERYTHING, *options, "--resume")
    assert (
        "resuming with changed DATASET.DATA_DIR, OPTIMIZATION.EPOCHS, captions of train: the run will differ"
    ) in changed.stdout, "a run of features does not depend on the folder of pictures"


def test_training_starts_from_pretrained_weights(undisturbed, tiny, run_quickly, tmp_path):
    slow = ["OPTIMIZATION.LR=1e-9", "OPTIMIZATION.EPOCHS=1", "OPTIMIZATION.EMA_DECAY=0.999"]
    done = run_quickly("train_retrieval", *tiny, *slow, f"PRETRAINED.DIR={undisturbed / 'best'}")
    assert done.returncode == 0, done.stderr
    before, after = (
        load_file(run / name / "model.safetensors")
        for run, name in ((undisturbed, "best"), (tmp_path / "run", "last"))
    )
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert (tmp_path / "run" / "vocab.json").read_bytes() == (undisturbed / "vocab.json").read_bytes()


def rewrite(change):
    """Return a damage to a checkpoint: change its tensors, with the checksum to match."""

    def damage(checkpoint: Path) -> None:
        path = checkpoint / "model.safetensors"
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path)
        state = json.loads((checkpoint / "state.json").read_text())
        del state["checksum"]
        content = path.read_bytes()
        state["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (checkpoint / "state.json").write_text(json.dumps(state))

    return damage


def cut_in_half(checkpoint: Path) -> None:
    """Damage a checkpoint and the one before it, which is there for a damaged one."""
    for folder in (checkpoint, checkpoint.with_name(".last.old")):
        path = folder / "trainer.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BIAS = "image_encoder.fc.bias"


@pytest.mark.parametrize(
    ("damage", "options", "expected"),
    [
        (rewrite(lambda arrays: arrays.pop(BIAS)), [], ["lacks", BIAS]),
        (rewrite(lambda arrays: arrays.update(stray=arrays[BIAS])), [], ["unexpected stray"]),
        (rewrite(lambda arrays: arrays.update({BIAS: arrays[BIAS][1:]})), [], [BIAS, "shape [15]", "[16]"]),
        (
            cut_in_half,
            [],
            ["no checkpoint", "last/trainer.safetensors", ".last.old/trainer.safetensors is damaged"],
        ),
        (None, ["MODEL.NAME=vse"], ["holds a vsepp model", "MODEL.NAME"]),
    ],
    ids=["missing", "extra", "misshapen", "cut in half", "another model"],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    undisturbed, tiny, run_quickly, tmp_path, damage, options, expected
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    if damage:
        damage(run / "last")
    before = contents(run)
    one_line(run_quickly("train_retrieval", *tiny, *EVERYTHING, *options, "--resume"), *expected)
    assert contents(run) == before


def test_a_folder_that_cannot_be_used_is_named(tiny, run_quickly, tmp_path):
    one_line(run_quickly("train_retrieval", *tiny, "--resume"), "nothing to resume in", "run")
    (tmp_path / "file").write_text("")
    refused = run_quickly("train_retrieval", *tiny, f"OUTPUT.CHECKPOINT_DIR={tmp_path / 'file'}")
    one_line(refused, "cannot write to the run folder", "file/run", "OUTPUT.CHECKPOINT_DIR")
    both = run_quickly("train_retrieval", *tiny, "--resume", "--overwrite")
    one_line(both, "--resume", "--overwrite", "got both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, (-15, 143)), (signal.SIGINT, (130,))])
def test_a_signal_during_start_up_leaves_quietly(tiny, start_tool, number, codes):
    process = start_tool("train_retrieval", *tiny)
    assert process.stdout.readline().startswith("runtime: "), (
        "Paddle is imported, and handles signals its own way"
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in codes
    assert errors in ("", "interrupted\n", "\nstopping after this step\n")


def test_a_reader_that_has_gone_ends_the_run_quietly(tiny, start_tool):
    process = start_tool("train_retrieval", *tiny)
    process.stdout.readline()
    process.stdout.close()  # as `| head -1` does
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1
