"""Levels of rows that continue one another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from config.machine.threads import for_each
from models.kernels.products import PackedMatrices
from models.kernels.recurrent.steps import GRUSteps, LSTMSteps
from models.kernels.row_blocks import equal_parts

Rows = np.ndarray | None  # row numbers; None stands for 0, 1, 2, ...

# Rows with the same parent share its product if there are fewer distinct parents than this share of the rows:
# to gather products costs a tenth of a product.
_SHARE_BELOW = 0.9


class Groups:
    """Rows grouped by their number; `distinct` [m] are the distinct numbers, ascending."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self.distinct, self._first, counts = np.unique(numbers, return_index=True, return_counts=True)
        start = np.cumsum(counts) - counts
        self._repeated = [
            (group, slice(start[group], start[group] + counts[group]))
            for group in np.flatnonzero(counts > 1).tolist()
        ]

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the sums [m,D] of the rows of `x` [N,D] by group, written to `out` if given."""
        sums = np.take(x, self._first, axis=0, out=out, mode="clip")
        for group, part in self._repeated:  # `reduceat` takes ten times as long
            np.add.reduce(x[self._order[part]], axis=0, out=sums[group])
        return sums

    def sum_each(self, xs: np.ndarray) -> np.ndarray:
        """Return the sums [G,m,D] of each of `xs` [G,N,D], on all threads."""
        sums = np.empty((len(xs), len(self.distinct), xs.shape[2]), xs.dtype)
        tasks = [(number, columns) for number in range(len(xs)) for columns in equal_parts(xs.shape[2])]

        def sum_part(task: tuple[int, slice]) -> None:
            number, columns = task
            sums[number, :, columns] = self.sum(xs[number][:, columns])

        for_each(sum_part, tasks)
        return sums


@dataclass(eq=False)
class Level:
    """Rows `start` to `end` of the P rows, with the rows of the level `above` that they continue, if any.

    `parents`, ascending, are the parents of the rows, numbered from 0 within the level above. None: row i
    continues row i. The recurrent product is computed once for each of the m distinct parents; those of the
    level are the products `first_product` and following of all M. `number` is that of the level, from 0.
    `steps` has what `backward` needs of each part of the rows.
    """

    start: int
    end: int
    parents: Rows
    above: "Level | None"
    first_product: int
    number: int
    steps: list[tuple[slice, GRUSteps | LSTMSteps]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def rows(self) -> slice:
        """The rows of the level among the P rows."""
        return slice(self.start, self.end)

    @property
    def products(self) -> slice:
        """The products of the level among the M products."""
        return slice(self.first_product, self.first_product + self.num_products)

    @cached_property
    def distinct(self) -> np.ndarray:
        """The m distinct parents, ascending, if there are `parents`."""
        return self.parents[np.diff(self.parents, prepend=-1) != 0]

    @cached_property
    def member(self) -> np.ndarray:
        """The index of each row's parent in `distinct`."""
        return np.cumsum(np.diff(self.parents, prepend=-1) != 0) - 1

    @cached_property
    def groups(self) -> Groups:
        return Groups(self.parents)

    @property
    def num_products(self) -> int:
        """The number m of distinct parents."""
        return self.size if self.parents is None else len(self.distinct)

    def parent_rows(self, previous: np.ndarray) -> np.ndarray:
        """Return the rows [m,D] of the distinct parents among those of the previous level."""
        return previous[: self.size] if self.parents is None else previous[self.distinct]

    def parent_of(self, part: slice) -> slice | np.ndarray:
        """Return the parent, numbered within the previous level, of each row of `part`."""
        return part if self.parents is None else self.parents[part]

    def product_of(self, part: slice) -> slice | np.ndarray:
        """Return, for each row of `part`, which of the m products it needs."""
        return part if self.parents is None else self.member[part]

    def add_products(
        self,
        part: slice,
        previous: np.ndarray,
        before: np.ndarray,
        packed: PackedMatrices,
        out: Sequence[np.ndarray],
    ) -> None:
        """Add the products of the parents of a part's n rows to `out`, [n,D] each, on the calling thread.

        `before` [n,D] are the parents of the rows, among the rows `previous` of the previous level.
        """
        if self.parents is not None:
            member = self.member[part]
            distinct = self.distinct[member[0] : member[-1] + 1]
            if len(distinct) < _SHARE_BELOW * len(before):
                products = packed.multiply_on_one_thread(previous[distinct])
                add_rows(out, products, member - member[0])
                return
        packed.add_on_one_thread(before, out)

    def sum(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return `x` [n,D] summed over the rows of each parent, [m,D], written to `out` if given."""
        if self.parents is not None:
            return self.groups.sum(x, out)
        return x if out is None else np.copyto(out, x) or out

    def spread(self, sums: np.ndarray, count: int) -> np.ndarray:
        """Return rows [count,D] of the previous level: `sums` [m,D] at the parents, and 0 elsewhere."""
        if self.parents is None and count == len(sums):
            return sums
        rows = np.zeros((count, sums.shape[1]), sums.dtype)
        rows[slice(len(sums)) if self.parents is None else self.distinct] = sums
        return rows


def chain(starts: Sequence[int], parents: Sequence[Rows]) -> list[Level]:
    """Return the levels of rows `starts[t]` to `starts[t + 1]`, which continue the rows `parents[t]`."""
    levels: list[Level] = []
    above, products = None, 0
    for start, end, rows in zip(starts[:-1], starts[1:], parents, strict=True):
        level = Level(start, end, rows, above, products, len(levels))
        products += level.num_products if above else 0
        levels.append(level)
        above = level
    return levels


def add_rows(receivers: Sequence[np.ndarray], products: np.ndarray, rows: slice | np.ndarray) -> None:
    """Add the rows `rows` of `products` [G,m,D] to the receivers, [n,D] each."""
    for receiver, product in zip(receivers, products, strict=True):
        receiver += product[rows]


def shifted(part: slice, start: int) -> slice:
    """Return a slice of rows that are numbered from `start`, as a slice of all rows."""
    return slice(part.start + start, part.stop + start)
