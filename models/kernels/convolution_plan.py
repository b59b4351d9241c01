"""Networks of convolutions, and the order in which rows of their maps are made, to stay in the cache.

A block of a MobileNet widens a map, convolves each channel, and narrows the map again. The wide maps do not
fit into the cache, the narrow ones do. So a block is a chain: its wide maps are made some rows at a time, and
the rows that nothing reads any more give their memory to the next ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INPUT = "input"
"""The name of the map that is given, the pictures."""

Sides = tuple[int, int]  # rows and columns of a map


@dataclass(frozen=True)
class Clip:
    """A step that limits values to `low` and `high`, as ReLU (0 and infinity) and ReLU6 do."""

    low: float
    high: float


@dataclass(frozen=True)
class Add:
    """A step that adds an earlier map, which no convolution after this one reads."""

    map: str


@dataclass(frozen=True)
class Convolution:
    """A convolution of the map `source`, and the steps that make the map `name` of it.

    `weight` is float32 [O,I/groups,h,w], `bias` float32 [O]. `padding` is top, left, bottom, right.
    """

    name: str
    source: str
    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    steps: tuple[Clip | Add, ...] = ()

    @property
    def added(self) -> list[str]:
        """Return the maps that are added."""
        return [step.map for step in self.steps if isinstance(step, Add)]

    def sides(self, source: Sides) -> Sides:
        """Return the sides of the map, from those of its source."""
        top, left, bottom, right = self.padding
        padded = source[0] + top + bottom, source[1] + left + right
        return tuple(
            (side - kernel) // stride + 1
            for side, kernel, stride in zip(padded, self.weight.shape[2:], self.stride, strict=True)
        )


@dataclass(frozen=True)
class Move:
    """Rows from `start` on of the buffer of map `name` move to the buffer's beginning, `count` of them."""

    name: str
    start: int
    count: int


@dataclass(frozen=True)
class Make:
    """Rows of a map are made of rows of its source.

    `read` and `made` are the numbers of rows, `read_at` and `made_at` where they begin in the memory of the
    source and of the map. `padding` is that of these rows.
    """

    convolution: Convolution
    read: int
    made: int
    read_at: int
    made_at: int
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class Plan:
    """The steps that run a chain; `buffers` are the rows that each map but the last needs at a time."""

    steps: list[Move | Make]
    buffers: dict[str, int]


def chains(convolutions: Sequence[Convolution]) -> list[list[Convolution]]:
    """Return the convolutions in order, in chains: what one makes, the next one reads, and no other.

    A convolution of single channels is the second of three; all others are alone.
    """
    readers = {name: 0 for each in convolutions for name in (each.source, *each.added)}
    for each in convolutions:
        for name in (each.source, *each.added):
            readers[name] += 1
    found, start = [], 0
    while start < len(convolutions):
        three = list(convolutions[start : start + 3])
        follow = all(
            later.source == earlier.name and readers[earlier.name] == 1 and not earlier.added
            for earlier, later in zip(three, three[1:], strict=False)
        )
        block = len(three) == 3 and follow and three[1].groups > 1 and three[2].weight.shape[2:] == (1, 1)
        found.append(three if block else three[:1])
        start += len(found[-1])
    return found


def plan(chain: Sequence[Convolution], source: Sides, budget: int | None, width: int) -> Plan:
    """Return a plan of as few strips as need at most `budget` bytes for buffers; `width` is a number's bytes.

    Without a budget there is one strip, which may be of several pictures.
    Where the last map takes the memory of the source, there is one strip, unless each row of the source is
    read once, before the row of the same number is made.
    """
    sides = [source]
    for each in chain:
        sides.append(each.sides(sides[-1]))
    bytes_of_row = [
        width * len(each.weight) * columns for each, (_, columns) in zip(chain, sides[1:], strict=True)
    ]
    rows = sides[-1][0]
    for strips in range(1, rows + 1) if _may_be_cut(chain) else [1]:
        found = _in_strips(chain, [height for height, _ in sides], -(-rows // strips))
        needed = sum(
            found.buffers[each.name] * row for each, row in zip(chain[:-1], bytes_of_row, strict=False)
        )
        if budget is None or needed <= budget:
            break
    return found


def _may_be_cut(chain: Sequence[Convolution]) -> bool:
    if len(chain) == 1 or chain[0].source not in chain[-1].added:
        return len(chain) > 1
    return chain[0].weight.shape[2] == 1 and chain[1].padding[0] < chain[1].weight.shape[2]


def _in_strips(chain: Sequence[Convolution], heights: Sequence[int], rows: int) -> Plan:
    """Return the plan that makes `rows` rows of the last map at a time; `heights` begin with the source's."""
    steps: list[Move | Make] = []
    done, held = [0] * len(chain), [0] * len(chain)  # rows that were made of each map, and the first one kept
    buffers = dict.fromkeys((each.name for each in chain[:-1]), 0)
    last, whole = len(chain) - 1, rows >= heights[-1]
    while done[last] < heights[-1]:
        until = [0] * last + [min(done[last] + rows, heights[-1])]
        for place in range(last, 0, -1):
            needed = heights[place] if whole else _end(chain[place], until[place], heights[place])
            until[place - 1] = max(done[place - 1], needed)
        for place, each in enumerate(chain):
            if place < last:
                first = max(0, _start(chain[place + 1], done[place + 1]))
                if held[place] < first < done[place]:
                    steps.append(Move(each.name, first - held[place], done[place] - first))
                held[place] = min(first, done[place])
                buffers[each.name] = max(buffers[each.name], until[place] - held[place])
            if whole:
                steps.append(Make(each, heights[place], heights[place + 1], 0, 0, each.padding))
            elif until[place] > done[place]:
                start = held[place - 1] if place else 0, held[place]
                steps.append(_make(each, (done[place], until[place]), heights[place], start))
            done[place] = until[place]
    return Plan(steps, buffers)


def _make(each: Convolution, made: tuple[int, int], height: int, start: tuple[int, int]) -> Make:
    """Return the step that makes rows of a map; `height` is its source's.

    `start` are the first rows in the memory of the source and of the map.
    """
    first, end = _start(each, made[0]), _end(each, made[1], height)
    below = _start(each, made[1] - 1) + each.weight.shape[2] - height
    _, left, _, right = each.padding
    return Make(
        each,
        end - max(0, first),
        made[1] - made[0],
        max(0, first) - start[0],
        made[0] - start[1],
        (max(0, -first), left, max(0, below), right),
    )


def _start(each: Convolution, row: int) -> int:
    """Return the first row of the source that a row of the map is made of; below 0 it is padding."""
    return row * each.stride[0] - each.padding[0]


def _end(each: Convolution, until: int, height: int) -> int:
    """Return the row of the source after the last one that rows before `until` are made of."""
    return max(0, min(height, _start(each, until - 1) + each.weight.shape[2]))


def cut(parts: Sequence[Sequence[Convolution]], sides: dict[str, Sides]) -> int:
    """Return from which chain on several pictures should run together; len(parts) if from none.

    That is where weights take more memory than the maps of one picture: reading them takes longer then.
    """
    found = len(parts)
    for number in range(len(parts) - 1, 0, -1):
        dense = [each for each in parts[number] if each.groups == 1]
        if any(each.weight.size < len(each.weight) * _area(sides[each.name]) for each in dense):
            break
        if _is_alone(parts, number):
            found = number
    return found


def _is_alone(parts: Sequence[Sequence[Convolution]], number: int) -> bool:
    """Tell whether one map before the chain of that number is read from there on, the map just before."""
    before = {each.name for part in parts[:number] for each in part} | {INPUT}
    read = {name for part in parts[number:] for each in part for name in (each.source, *each.added)}
    return read & before == {parts[number - 1][-1].name}


def _area(sides: Sides) -> int:
    return sides[0] * sides[1]


def all_sides(convolutions: Sequence[Convolution], size: int) -> dict[str, Sides]:
    """Return the sides of each map, by name, for pictures of `size` x `size`."""
    found = {INPUT: (size, size)}
    for each in convolutions:
        found[each.name] = each.sides(found[each.source])
    return found
