"""Every process gets the rows of all, from one file that leaves nothing behind."""

import numpy as np
import pytest

from config.errors import UserError
from engine.parallel import processes, shared_rows
from engine.parallel.shared_rows import share_rows
from tests.thread_job import ThreadJob

ROWS = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32)
PLACES = np.random.default_rng(1).permutation(11)


def share(number: int, count: int, folder) -> np.ndarray:
    own = np.array_split(PLACES, count)[number]
    return share_rows(own, ROWS[own] if len(own) else None, len(ROWS), folder)


@pytest.mark.parametrize("count", [1, 2, 4, 13])
def test_all_processes_get_the_rows_of_all(monkeypatch, tmp_path, count):
    for found in ThreadJob(count, monkeypatch).run(lambda number: share(number, count, tmp_path / "run")):
        np.testing.assert_array_equal(found, ROWS)
        assert not found.flags.writeable
    assert not list((tmp_path / "run").iterdir()), "the file has lost its name, and ends with the processes"


def test_processes_of_several_machines_get_copies(monkeypatch, tmp_path):
    job = ThreadJob(3, monkeypatch)
    monkeypatch.setattr(shared_rows, "_machine", lambda: b"aba"[processes.process_number() :][:1])
    for found in job.run(lambda number: share(number, 3, tmp_path / "run")):
        np.testing.assert_array_equal(found, ROWS)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write the embeddings that processes share into .*file"):
        share_rows(PLACES, ROWS[PLACES], len(ROWS), tmp_path / "file")


def test_what_fails_in_one_process_ends_all_and_leaves_no_file(monkeypatch, tmp_path):
    write = shared_rows._write

    def fail_in_the_last(*arguments) -> None:
        if processes.process_number() == 2:
            raise UserError("no space")
        write(*arguments)

    def work(number: int) -> str:
        with pytest.raises(UserError) as failure:
            share(number, 3, tmp_path)
        return str(failure.value)

    job = ThreadJob(3, monkeypatch)
    monkeypatch.setattr(shared_rows, "_write", fail_in_the_last)
    other = "another process of the job has failed; its own line says why"
    assert job.run(work) == [other, other, "no space"]
    assert not list(tmp_path.iterdir())
