"""What may happen to a run, each a function that lets it happen, resumes and compares.

They raise LostError where the run does not end with the weights of an undisturbed one, bit for bit.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults.runs import JOB_LIMIT, STEPS, Bench, Run, expect, one_line

LATEST = STEPS * 2 // 3  # a fault comes before this step, so that the run is not over when it is noticed
FULL_AT = 100_000  # bytes: more than the log, less than a checkpoint


@dataclass(frozen=True)
class Fault:
    """What happens, and what is expected then; `times` it is tried with other random steps and places."""

    name: str
    answer: str
    happen: Callable[[Bench, Random], None]
    times: int


def killed(bench: Bench, random: Random) -> None:
    """SIGKILL at a random step and moment."""
    run = bench.new_run("killed_at_random")
    run.start()
    run.wait_for_step(random.randint(1, LATEST))
    time.sleep(random.uniform(0, 0.03))
    saved = run.saved_step()
    expect(run.end_by(signal.SIGKILL)[0] == -signal.SIGKILL, "it is killed")
    run.resume(bench.undisturbed, saved)


def killed_in_mid_write(bench: Bench, random: Random) -> None:
    """SIGKILL while a checkpoint is half written."""
    run = bench.new_run("killed_in_mid_write")
    run.start()
    run.stop_in_mid_write(random.randint(2, LATEST))
    saved = run.saved_step()
    expect(run.end_by(signal.SIGKILL)[0] == -signal.SIGKILL, "it is killed")
    run.resume(bench.undisturbed, saved)


def terminated_in_mid_write(bench: Bench, random: Random) -> None:
    """SIGTERM while a checkpoint is half written."""
    run = bench.new_run("terminated_in_mid_write")
    run.start()
    run.stop_in_mid_write(random.randint(2, LATEST))
    run.process.send_signal(signal.SIGTERM)
    code, printed, errors = run.end_by(signal.SIGCONT)
    expect(code == 143, f"exit code 143, got {code}: {errors}")
    expect("saved, --resume goes on" in printed, "it says that it has saved")
    stopped_at = int(printed.rpartition("at step ")[2].split(";")[0])
    run.resume(bench.undisturbed, stopped_at)


def disk_full(bench: Bench, random: Random) -> None:
    """From a step on no file can grow beyond a size that checkpoints exceed."""
    run = bench.new_run("disk_full")
    run.start()
    run.wait_for_step(random.randint(2, LATEST))
    saved = run.saved_step()
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (FULL_AT, resource.RLIM_INFINITY))
    one_line(run.end(), "cannot write checkpoint", "--resume")
    expect(not list(run.path.glob(".*.new")), "nothing half written stays")
    run.resume(bench.undisturbed, saved)


def small_file_system(bench: Bench, random: Random) -> None:
    """A file system that holds some checkpoints fills up; it is enlarged, and the run goes on."""
    run = bench.new_run("small_file_system")
    size = random.choice((1300, 2200, 3100))  # kB; a checkpoint has 900
    script = (
        'mount -t tmpfs -o size="$1"k none "$2" && cd "$2" && shift 2 && "$@" > out 2> errors; code=$?; '
        'mount -o remount,size=100m "$PWD" && cp -a "$PWD" "$KEPT" && exit $code'
    )
    kept = run.folder.with_name(run.folder.name + "_kept")
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(size), str(run.folder), *run.command()]
    code = subprocess.run(words, env={**os.environ, "KEPT": str(kept)}, check=False).returncode
    one_line((code, "", (kept / "errors").read_text()), "No space left on device", "--resume")
    shutil.copytree(kept, run.folder, dirs_exist_ok=True)
    run.resume(bench.undisturbed, run.saved_step())


def truncated(bench: Bench, random: Random) -> None:
    """A file of the newest checkpoint is cut at a random place."""
    path = _file_of(run := bench.copy_of_killed("truncated"), random)
    os.truncate(path, random.randrange(path.stat().st_size))
    _resume_from_the_one_before(bench, run)


def bit_flipped(bench: Bench, random: Random) -> None:
    """A random bit of the newest checkpoint's weights or optimizer state flips."""
    run = bench.copy_of_killed("bit_flipped")
    path = run.last / random.choice(("model.safetensors", "trainer.safetensors"))
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    _resume_from_the_one_before(bench, run)


def deleted(bench: Bench, random: Random) -> None:
    """The newest checkpoint is deleted, or a file of it."""
    run = bench.copy_of_killed("deleted")
    if random.random() < 0.5:
        shutil.rmtree(run.last)
    else:
        _file_of(run, random).unlink()
    _resume_from_the_one_before(bench, run)


def _file_of(run: Run, random: Random) -> Path:
    return random.choice(sorted(run.last.iterdir()))


def _resume_from_the_one_before(bench: Bench, run: Run) -> None:
    before = 20 - 4  # killed with a checkpoint of step 20 or later, of which there is one every second step
    printed = run.resume(bench.undisturbed, before)
    told = [line for line in printed.splitlines() if "going on from the checkpoint before it" in line]
    expect(len(told) == 1, f"one line says that the one before is used, got {told}")


def second_run(bench: Bench, random: Random) -> None:
    """A second command trains in the folder of one that is at work."""
    run = bench.new_run("second_run")
    run.start()
    run.wait_for_step(random.randint(2, LATEST))
    run.process.send_signal(signal.SIGSTOP)  # or it would be done before the second looks
    second = bench.run_in(run.folder)
    second.prints = run.folder / "second"
    second.prints.mkdir()
    second.start(random.choice(("--resume", "--overwrite")))
    ended = second.end()
    run.process.send_signal(signal.SIGCONT)
    one_line(ended, "another process is training in", "OUTPUT.SAVE_NAME")
    code, _, errors = run.end()
    expect(code == 0, f"the first goes on to its end, it ended with {code}: {errors}")
    run.start("--resume")
    code, printed, errors = run.end()
    expect(code == 0 and "nothing left to train" in printed, f"nothing is left: {printed[-300:]}{errors}")
    run.compare(bench.undisturbed)


def features_corrupted(bench: Bench, random: Random) -> None:
    """The file of features is damaged while it is read: bytes overwritten, or cut short."""
    run = bench.new_run("features_corrupted")
    run.data = run.folder / "data"
    shutil.copytree(bench.data, run.data)
    features = run.data / "train_ims.npy"
    whole = features.read_bytes()
    run.start()
    run.wait_for_step(random.randint(2, LATEST))
    saved = run.saved_step()
    start = random.randrange(256, len(whole) // 2)
    if random.random() < 0.5:
        os.truncate(features, start)
    else:
        with open(features, "r+b") as file:
            file.seek(start)
            file.write(b"\xff" * 4096)
    one_line(run.end(), "train_ims.npy")
    run.start("--resume")
    one_line(run.end(), "train_ims.npy")
    features.write_bytes(whole)
    run.resume(bench.undisturbed, saved)


def rank_killed(bench: Bench, random: Random) -> None:
    """SIGKILL to one process of two."""
    run = bench.new_run("rank_killed", processes=2)
    run.start()
    run.wait_for_step(random.randint(2, LATEST))
    saved = run.saved_step()
    os.kill(run.worker(random.randrange(2)), signal.SIGKILL)
    code, _, _ = run.end(JOB_LIMIT)
    expect(code != 0, "the job ends with a code that is not 0")
    run.resume(bench.undisturbed_pair, saved)


NAMED = "one line names it; the checkpoint before it is used"
FAULTS = [
    Fault("SIGKILL at a random moment", "resumed from the newest checkpoint", killed, 12),
    Fault("SIGKILL while a checkpoint is written", "resumed from the one before", killed_in_mid_write, 4),
    Fault("SIGTERM while a checkpoint is written", "saves, exit code 143", terminated_in_mid_write, 4),
    Fault("disk full: a limit on file size", "one line, exit code 2", disk_full, 4),
    Fault("disk full: a small file system", "one line, exit code 2", small_file_system, 3),
    Fault("newest checkpoint truncated", NAMED, truncated, 5),
    Fault("newest checkpoint, a bit flipped", NAMED, bit_flipped, 5),
    Fault("newest checkpoint deleted, or a file of it", NAMED, deleted, 4),
    Fault("a second run in the folder", "it refuses, exit code 2; the first goes on", second_run, 3),
    Fault("feature file damaged while read", "one line, exit code 2, until mended", features_corrupted, 4),
    Fault("one of two processes killed", "the job ends within a minute", rank_killed, 4),
]
