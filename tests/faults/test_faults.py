"""One case of each fault; `make faults` tries them many times."""

import contextlib
from collections.abc import Iterator
from random import Random

import pytest

from tests.faults.faults import FAULTS, Fault, small_file_system
from tests.faults.runs import Bench, can_mount


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    """Return where faults happen; the undisturbed runs are shared."""
    with contextlib.closing(Bench(tmp_path_factory.mktemp("faults"))) as bench:
        yield bench


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.happen.__name__)
def test_a_run_survives(fault: Fault, bench):
    if fault.happen is small_file_system and not can_mount():
        pytest.skip("no file system can be mounted here: the fault is tried with a limit on file size alone")
    fault.happen(bench, Random(fault.name))
