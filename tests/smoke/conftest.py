"""The real command lines on a small generated data set."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.forks import run_forked

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT = Path(__file__).with_name("interrupt.py")
WORDS = [
    "a",
    "red",
    "dog",
    "runs",
    "over",
    "the",
    "wet",
    "grass",
    "near",
    "two",
    "houses",
    "by",
    "the",
    "sea",
]


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs `python tools/<name>.py` with arguments, as a user does, on one thread."""

    def run_tool(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "tools" / f"{name}.py", *arguments]
        words, environment = [str(word) for word in command], os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    return run_tool


@pytest.fixture(scope="session")
def run_quickly() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function like `run_tool` whose processes begin with Paddle imported."""

    def run_quickly(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        return run_forked(ROOT / "tools" / f"{name}.py", *arguments, cwd=cwd)

    return run_quickly


@pytest.fixture(scope="session")
def start_tool() -> Callable[..., subprocess.Popen]:
    """Return a function that starts a tool, with pipes to what it prints, and does not wait."""

    def start_tool(name: str, *arguments: str | Path) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    return start_tool


@pytest.fixture
def run_launched(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a tool in two processes, whose own output goes to logs/workerlog.N."""

    def run_launched(name: str, *arguments: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess:
        launcher = "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "logs"
        return run_forked(*launcher, ROOT / "tools" / f"{name}.py", *arguments, cwd=cwd)

    return run_launched


@pytest.fixture(scope="session")
def run_interrupted() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a tool to which something happens at a step of training (interrupt.py)."""

    def run_interrupted(
        event: str, step: int, name: str, *arguments: str | Path
    ) -> subprocess.CompletedProcess:
        return run_forked(INTERRUPT, event, str(step), ROOT / "tools" / f"{name}.py", *arguments)

    return run_interrupted


@pytest.fixture(scope="session")
def write_split() -> Callable[..., np.ndarray]:
    """Return a function that writes a split in the layout of the `*_precomp` folders, and returns its rows.

    Captions have six or seven words. `row_per_caption` repeats an image's row for each of its captions.
    """

    def write_split(
        folder: Path,
        split: str,
        images: int,
        width: int,
        captions_per_image: int = 5,
        ids: bool = False,
        row_per_caption: bool = False,
    ) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(sum(map(ord, split)))
        rows = random.standard_normal((images, width)).astype(np.float32)
        captions = [
            " ".join(random.choice(WORDS, 6 + number % 2)) for number in range(images * captions_per_image)
        ]
        stored = np.repeat(rows, captions_per_image, axis=0) if row_per_caption else rows
        np.save(folder / f"{split}_ims.npy", stored)
        (folder / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
        if ids:
            (folder / f"{split}_ids.txt").write_text("".join(f"{split}_{n}.jpg\n" for n in range(images)))
        return rows

    return write_split


@pytest.fixture(scope="session")
def scenes(run_tool, tmp_path_factory) -> Path:
    """Return the folder of a Scenes data set of 60, 20 and 20 images."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    made = run_tool("make_scenes", "--out", folder, "--train", "60", "--dev", "20", "--test", "20")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def tiny_run(scenes) -> Callable[[Path], list[str]]:
    """Return a function from a folder to the arguments of a small run of VSE++ in `<folder>/run`.

    An epoch has 6 steps.
    """

    def tiny_run(folder: Path) -> list[str]:
        return [
            "--cfg_file",
            str(ROOT / "configs" / "scenes" / "vsepp.yaml"),
            f"DATASET.DATA_DIR={scenes}",
            f"OUTPUT.CHECKPOINT_DIR={folder}",
            "OUTPUT.SAVE_NAME=run",
            "MODEL.EMBED_DIM=16",
            "MODEL.WORD_DIM=8",
            "OPTIMIZATION.BATCH_SIZE=50",
            "OPTIMIZATION.EPOCHS=3",
            "MONITOR.PRINT_STEP=1",
            "RUNTIME.DEVICE=cpu",
        ]

    return tiny_run


@pytest.fixture
def tiny(tiny_run, tmp_path) -> list[str]:
    """Return the arguments of a small run in `<tmp_path>/run`."""
    return tiny_run(tmp_path)
