"""A few of the moments at which tests/faults/kill_index.py kills; `make faults` tries a hundred."""

import pytest

from tests.faults.kill_index import kill_once


@pytest.mark.parametrize("seed", range(4))
def test_an_index_survives_sigkill(tmp_path, seed):
    kill_once(tmp_path / "killed", seed)
