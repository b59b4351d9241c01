"""Many short rows of token ids, packed into one array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class PackedTokens:
    """Rows of token ids, one after another.

    `ids` is int32 [sum of lengths]. `lengths` is int64 [rows]. `starts` (int64 [rows]) is where each row
    begins in `ids`.
    """

    ids: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.cumsum(self.lengths) - self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.starts[row] : self.starts[row] + self.lengths[row]]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> "PackedTokens":
        """Pack rows of token ids."""
        rows = list(rows)
        return cls(
            np.fromiter(chain.from_iterable(rows), dtype=np.int32),
            np.fromiter(map(len, rows), dtype=np.int64),
        )

    def batch(self, rows: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """Return `rows` [B] as token_ids int64 [B,T], padded to the longest, and text_len int64 [B]."""
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max(initial=0))  # [T]
        present = columns < lengths[:, None]  # [B,T]
        token_ids = np.full(present.shape, pad_id, dtype=np.int64)
        token_ids[present] = self.ids[(self.starts[rows][:, None] + columns)[present]]
        return {"token_ids": token_ids, "text_len": lengths}

    def cut(self, longest: int) -> "PackedTokens":
        """Return the first `longest` tokens of each row."""
        lengths = np.minimum(self.lengths, longest)
        return PackedTokens(self.ids[_places(self.starts, lengths)], lengths)

    def joined(self, rows: np.ndarray, counts: np.ndarray) -> "PackedTokens":
        """Return new rows, each of which joins some old rows.

        `rows` [sum of counts] are the old rows to join, in order, and `counts` [new rows] is how many of them
        each new row takes.
        """
        lengths = self.lengths[rows]
        total = np.concatenate([[0], np.cumsum(lengths)])
        ends = np.cumsum(counts)
        return PackedTokens(self.ids[_places(self.starts[rows], lengths)], total[ends] - total[ends - counts])


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return start, start + 1, ... for each run of `lengths` [runs] from `starts` [runs] on: int64 [sum]."""
    begins = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - begins, lengths)
