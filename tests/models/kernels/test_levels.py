"""Levels of rows that continue one another are cut into pieces that need nothing of one another."""

import numpy as np
import pytest

from models.kernels.recurrent import levels as module
from models.kernels.recurrent.levels import chain, cut

# Five levels of a tree: row 0 of level 0 has three children, row 1 none, and so on.
STARTS = [0, 3, 8, 14, 18, 19]
PARENTS = [None, [0, 0, 0, 2, 2], [0, 1, 1, 2, 3, 4], [0, 0, 4, 5], [1]]


def forest(parents=PARENTS):
    return chain(STARTS, [None if rows is None else np.array(rows) for rows in parents])


def row_continued(level, row):
    """Return the row, among all P, that a row of a level continues."""
    parent = row if level.parents is None else level.parents[row]
    return level.above.start + int(parent)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_pieces_hold_every_row_of_the_large_levels_once_with_the_row_it_continues(monkeypatch, count, rows):
    monkeypatch.setattr(module, "_PIECE_ROWS", rows)
    levels = forest()
    large, pieces = cut(levels, count)
    sizes = [level.size for level in levels]
    assert all(size < count * rows for size in sizes[: large.start] + sizes[large.stop :])
    found = sorted(row for piece in pieces for level in piece for row in range(level.start, level.end))
    whole = [row for level in levels[large] for row in range(level.start, level.end)]
    assert found == whole
    number_of = {level.start + row: (level, row) for level in levels for row in range(level.size)}
    for piece in pieces:
        for level in piece:
            for row in range(level.size if level.above else 0):
                assert row_continued(level, row) == row_continued(*number_of[level.start + row])


@pytest.mark.parametrize("count", [2, 3])
def test_pieces_below_the_first_level_have_the_products_of_their_own_rows(monkeypatch, count):
    monkeypatch.setattr(module, "_PIECE_ROWS", 1)
    levels = forest()
    large, pieces = cut(levels, count)
    products = sorted(
        product
        for piece in pieces
        for level in piece[1:]
        for product in range(level.products.start, level.products.stop)
    )
    assert products == list(range(levels[large][1].first_product, levels[large][-1].products.stop))


def test_rows_that_continue_the_rows_of_the_same_number_are_cut_alike(monkeypatch):
    monkeypatch.setattr(module, "_PIECE_ROWS", 1)
    levels = chain([0, 6, 11, 14, 16], [None] * 4)  # captions, the longest first
    large, pieces = cut(levels, 2)
    assert large == slice(0, 4)
    rows = [[(level.start, level.end) for level in piece] for piece in pieces]
    assert rows == [[(0, 2), (6, 8), (11, 13), (14, 16)], [(2, 6), (8, 11), (13, 14)]]


def test_small_levels_and_one_thread_are_not_cut():
    assert cut(forest(), 2) == (slice(5, 5), [])
    assert cut(forest(), 1) == (slice(5, 5), [])
