"""Rows of maps are made in strips, within a budget of memory, and are those that are made at once."""

import numpy as np
import pytest

from models.kernels.convolution_plan import INPUT, Add, Convolution, Make, Move, all_sides, chains, cut, plan
from tests.convolutions import convolved, random_convolution

WIDTH = 4  # bytes of a number


def block(kernel: int, stride: int, top: int, bottom: int, widens: int = 1) -> list[Convolution]:
    """Return a chain: a convolution that widens, one of single channels, and one that narrows."""
    return [
        random_convolution("wide", INPUT, 3, 4, widens, 1, padding=(widens // 2,) * 4),
        random_convolution(
            "each", "wide", 4, 4, kernel, 2, groups=4, stride=(stride, stride), padding=(top, 1, bottom, 1)
        ),
        random_convolution("narrow", "each", 4, 3, 1, 3),
    ]


def run(chain: list[Convolution], source: np.ndarray, budget: int | None) -> tuple[np.ndarray, int]:
    """Run a plan on a map [C,H,W] in memory of its size; return the last map, and how many steps it took."""
    planned, sides = plan(chain, source.shape[1:], budget, WIDTH), [source.shape[1:]]
    for each in chain:
        sides.append(each.sides(sides[-1]))
    memory = {INPUT: source}
    for each, (rows, columns) in zip(chain, sides[1:], strict=True):
        memory[each.name] = np.full((len(each.weight), planned.buffers.get(each.name, rows), columns), np.nan)
    for step in planned.steps:
        if isinstance(step, Move):
            own = memory[step.name]
            own[:, : step.count] = own[:, step.start : step.start + step.count].copy()
            continue
        assert isinstance(step, Make)
        each = step.convolution
        read = memory[each.source][:, step.read_at : step.read_at + step.read]
        assert read.shape[1] == step.read
        made = convolved(read, each, step.padding)
        memory[each.name][:, step.made_at : step.made_at + step.made] = made[:, : step.made]
    return memory[chain[-1].name], len(planned.steps)


@pytest.mark.parametrize("widens", [1, 3])
@pytest.mark.parametrize("height", [5, 8, 9])
@pytest.mark.parametrize(
    ("kernel", "stride", "top", "bottom"),
    [(3, 1, 1, 1), (3, 2, 0, 1), (3, 2, 1, 1), (5, 2, 2, 2), (3, 2, 0, 0)],
)
def test_rows_in_strips_are_those_made_at_once(kernel, stride, top, bottom, height, widens):
    chain, source = (
        block(kernel, stride, top, bottom, widens),
        np.random.default_rng(0).random((3, height, 6)),
    )
    expected = source
    for each in chain:
        expected = convolved(expected, each, each.padding)
    counts = []
    for budget in (None, 900, 700, 500, 1):
        found, count = run(chain, source, budget)
        np.testing.assert_array_equal(found, expected)
        counts.append(count)
    assert counts[0] == 3 and counts[-1] > 3 and counts == sorted(counts)


def test_buffers_keep_within_the_budget():
    chain = block(3, 1, 1, 1)
    whole = plan(chain, (40, 6), None, WIDTH).buffers
    assert whole == {"wide": 40, "each": 40}
    row = WIDTH * 4 * 6
    small = plan(chain, (40, 6), 20 * row, WIDTH).buffers
    assert sum(small.values()) <= 20
    assert plan(chain, (40, 6), 1, WIDTH).buffers == {"wide": 3, "each": 1}  # no less than one row


def test_a_map_that_takes_the_memory_of_its_source_is_made_after_it_was_read():
    chain = block(3, 1, 1, 1)
    chain[2] = random_convolution("narrow", "each", 4, 3, 1, 3, steps=(Add(INPUT),))
    read = made = 0
    for step in plan(chain, (9, 6), 1, WIDTH).steps:
        if isinstance(step, Make) and step.convolution.name == "wide":
            assert step.read_at == read  # each row is read once
            read += step.read
        if isinstance(step, Make) and step.convolution.name == "narrow":
            made = step.made_at + step.made
            assert made <= read
    assert read == made == 9
    wider = block(3, 1, 1, 1, widens=3)  # which reads rows twice
    wider[2] = chain[2]
    assert len(plan(wider, (9, 6), 1, WIDTH).steps) == 3


def test_a_chain_ends_where_a_map_has_another_reader():
    chain = block(3, 1, 1, 1)
    after = random_convolution("after", "narrow", 3, 4, 1, 4)
    assert [[each.name for each in part] for part in chains([*chain, after])] == [
        ["wide", "each", "narrow"],
        ["after"],
    ]
    read_again = random_convolution("after", "narrow", 3, 4, 1, 4, steps=(Add("wide"),))
    assert [len(part) for part in chains([*chain, read_again])] == [1, 1, 1, 1]


def test_pictures_run_together_where_weights_are_larger_than_maps():
    first, last = block(3, 2, 1, 1), random_convolution("last", "narrow", 3, 50, 1, 4)
    convolutions = [*first, last]
    parts = chains(convolutions)
    assert cut(parts, all_sides(convolutions, 2)) == 1
    assert cut(parts, all_sides(convolutions, 20)) == 2  # none
    beside = random_convolution("last", "narrow", 3, 3, 1, 4, steps=(Add(INPUT),))
    assert cut(chains([*first, beside]), {**all_sides(convolutions, 2)}) == 2  # the pictures are read, too
