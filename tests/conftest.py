"""What every test shares: Paddle's environment, set before any test imports it, and the shared data."""

import os
from pathlib import Path

import pytest

from engine.runtime import set_environment

set_environment()

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared data: RETRIEVAL_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared data folder {folder} is missing (RETRIEVAL_SHARED names another)")
    return folder
