"""What every test shares: Paddle's environment, set before any test imports it, and the shared data."""

import os
from pathlib import Path

import pytest

from engine.runtime import choose_threads, set_environment, usable_cores

# Workers of pytest-xdist share the cores, but have two threads each: what threads share is tested with two.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
set_environment(min(choose_threads(), max(2, usable_cores() // WORKERS)))

ROOT = Path(__file__).resolve().parent.parent
SLOWEST = ["fuzz", "faults", "smoke", "parity", "models"]  # the folders of tests that take longest


@pytest.hookimpl(optionalhook=True)  # there without pytest-xdist, too
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts: a core each, at most four; none where there is one core."""
    cores = min(usable_cores(), 4)
    return cores if cores > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slowest folders come first where several workers share the tests, so that all end together."""
    if WORKERS > 1:
        ranks = {name: rank for rank, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: ranks.get(item.path.relative_to(ROOT / "tests").parts[0], len(ranks)))


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers multiply bfloat16, by this processor's instructions or by an emulation."""
    from tests.other_processors import with_bfloat16

    with_bfloat16(monkeypatch)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared data: RETRIEVAL_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared data folder {folder} is missing (RETRIEVAL_SHARED names another)")
    return folder
