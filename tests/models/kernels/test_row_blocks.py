"""Blocks of rows, shared among threads."""

import paddle
import pytest

from models.kernels import row_blocks


@pytest.mark.parametrize("threads", [1, 3, 96])
@pytest.mark.parametrize("row_bytes", [4, 16 << 10, 3 << 20])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_row_is_in_one_block_and_no_block_is_empty(monkeypatch, count, row_bytes, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    blocks = row_blocks.row_blocks(count, row_bytes)
    assert [row for block in blocks for row in range(count)[block]] == list(range(count))
    assert all(block.start < block.stop for block in blocks)


def test_large_blocks_are_equally_many_for_every_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert len(row_blocks.row_blocks(1000, 4 << 10)) % 3 == 0


def test_the_array_of_a_tensor_shares_its_memory_and_cannot_be_written_to():
    tensor = paddle.zeros([2, 3])
    array = row_blocks.array_of(tensor)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    tensor[0, 0] = 2
    assert array[0, 0] == 2


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("row_bytes", [4, 12 << 10, 2 << 20])
def test_blocks_of_a_multiple_cover_all_rows_and_only_the_last_is_odd(count, row_bytes):
    blocks = row_blocks.row_blocks(count, row_bytes, multiple=64)
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == count
    assert all(block.stop > block.start for block in blocks) or count == 0
    assert all(block.start % 64 == 0 for block in blocks)
