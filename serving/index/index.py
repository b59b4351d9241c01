"""An index in a folder: searched by many processes and threads while one process changes it.

INDEX/card.json      what it is, and which folder holds its data; replacing it is how data are exchanged
INDEX/0001/          items.sqlite, vectors.f32, checks.u32 and the file of the engine
INDEX/writer.lock    locked by the one process that writes; the system releases it however that ends
"""

import contextlib
import dataclasses
import errno
import fcntl
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from config.errors import UnavailableError, UserError
from serving.index.card import FILE as CARD
from serving.index.card import Card, check_bundle, read_card, write_card
from serving.index.engines import exact, kinds
from serving.index.engines.codes import codes_of
from serving.index.engines.int8 import Int8
from serving.index.engines.saved import Saved, check_file
from serving.index.items import Item, Items, State, checked_items, refuse_unknown
from serving.index.vectors import VECTORS, VectorFile, blocks_of, check_vectors, damaged, take_rows
from serving.index.view import THREADS, Part, View, allowed_rows, search_view

_SCANNED_ROWS = 4096  # that came later than the engine was built, and are searched without one
_ATTEMPTS = 20


@dataclass(frozen=True)
class Hit:
    """An item that was found. `shares` are the parts of its score, by the terms of the query.

    `before` is the place, from 1, that it had before it was re-ranked; 0: it was not.
    """

    id: str
    score: float
    caption: str | None = None
    metadata: dict = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    before: int = 0


class Index:
    """The index in `folder`, opened to search or, if `writable`, to change it too.

    With `resident`, an engine is loaded into memory that answers many queries quickly; without, the vectors
    are read for each query, and nothing is loaded, except lists, and to search alone int8, which is small.
    Threads may share an index. Raises UserError for a folder that holds no index, or a damaged one, and where
    another process writes.
    """

    def __init__(self, folder: str | Path, writable: bool = False, resident: bool = True) -> None:
        self.folder, self._resident = Path(folder), resident
        self._lock, self._stack = threading.RLock(), contextlib.ExitStack()
        read_card(self.folder)
        self._writable = writable
        if writable:
            self._stack.enter_context(writer_lock(self.folder))
            clean(self.folder)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, and let another process write."""
        if hasattr(self, "_items"):
            self._items.close()
        self._stack.close()

    @property
    def card(self) -> Card:
        """Return the card, with the present number of items."""
        with self._lock:
            self._refresh()
            return dataclasses.replace(self._card, count=self._view.state.items)

    def check_bundle(self, identity: str) -> None:
        """Raise UserError unless the bundle with this identity made the vectors."""
        check_bundle(self.card, identity, self.folder)

    def search(
        self, queries: np.ndarray, k: int, where: str | None = None, of_pictures: bool = False
    ) -> list[list[Hit]]:
        """Return the `k` best items for each of `queries` [Q,D], best first, equal ones in the items' order.

        `where` is a condition on the items (serving/index/filters.py). `of_pictures`: the queries are
        pictures' vectors; this matters to order similarity alone, which compares a picture with pictures
        by cosine. Raises UserError for queries of another dimension or length than the index holds, and
        for a wrong condition.
        """
        for _ in range(_ATTEMPTS):
            view, items, card, folder = self._now()
            queries = check_vectors("query", queries, card.dimension, card.measure)
            allowed = allowed_rows(view, items, where)
            most = min(k, len(view.vectors))
            found = search_view(view, card, folder, queries, most, allowed, of_pictures)
            known = items.at({int(row) for _, rows in found for row in rows})
            if all(int(row) in known for _, rows in found for row in rows):
                return [
                    [_hit(known[int(row)], float(score)) for score, row in zip(*best, strict=True)]
                    for best in found
                ]
        raise UserError(f"{self.folder}: changes faster than it can be searched: search again")

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors [n,D] of items; raise UserError for an id that is not there."""
        view, items, _, folder = self._now()
        rows = items.rows_of(ids)
        missing = [each for each in ids if each not in rows]
        if missing:
            near = ", ".join(items.called(missing[0]))
            refuse_unknown(
                missing, (), self.folder, f"did you mean {near}?" if near else "name one that is there"
            )
        return take_rows(folder, view.vectors, view.checks, np.array([rows[each] for each in ids], np.int64))

    def described(self, ids: Sequence[str]) -> list[Item]:
        """Return those of the items `ids` that are there, in that order."""
        _, items, _, _ = self._now()
        rows = items.rows_of(ids)
        found = items.at(set(rows.values()))
        return [found[rows[each]] for each in ids if rows.get(each) in found]

    def items(self) -> Iterator[Item]:
        """Yield all items in their order."""
        for _, item in self._now()[1].all():
            yield item

    def keys(self) -> list[str]:
        """Return the keys that metadata of some item have, dotted for objects in objects."""
        return self._now()[1].keys()

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Return the vectors of at most `number` random items [n,D]; the same ones every time."""
        view, _, _, folder = self._now()
        rows = np.arange(len(view.vectors)) if view.alive is None else np.flatnonzero(view.alive)
        chosen = np.random.default_rng(seed).permutation(len(rows))[:number]
        return take_rows(folder, view.vectors, view.checks, np.sort(rows[chosen]))

    def add(self, items: Sequence[Item], vectors: np.ndarray, replace: bool = False) -> None:
        """Add items with their vectors [N,D]; with `replace`, update those that are there.

        When it returns, they are on the disk, and every later search finds them. All are added, or none.
        Raises UserError as `check_vectors`, `checked_items` and `Items.insert` do, and for a full disk.
        """
        self._change()
        items = checked_items(items, "items")
        vectors = check_vectors("vectors", vectors, self._card.dimension, self._card.measure)
        if len(items) != len(vectors):
            raise UserError(f"expected one vector an item, got {len(items)} items and {len(vectors)} vectors")
        if not items:
            return
        with self._lock:
            try:
                self._vectors.write(self._items.state().rows, vectors)
            except OSError as error:
                raise cannot_write(self._vectors.path, error) from error
            self._items.insert(items, replace)
            self._write_count()

    def describe(self, items: Sequence[Item]) -> None:
        """Replace captions and metadata of items, not their vectors; raise UserError for unknown ids."""
        self._change()
        with self._lock:
            self._items.describe_again(checked_items(items, "items"))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items, all or none; raise UserError for an id that is not there."""
        self._change()
        with self._lock:
            self._items.delete(list(dict.fromkeys(ids)))
            self._write_count()

    def verify(self) -> None:
        """Read every file, and raise UserError for the first one that is not what was written."""
        view, items, card, folder = self._now()
        for part in blocks_of(*view.vectors.shape):
            take_rows(folder, view.vectors, view.checks, np.arange(part.start, part.stop))
        items.verify()
        if card.engine in kinds.FILES:
            check_file(folder / kinds.FILES[card.engine], saved_engine(card))

    def _now(self) -> tuple[View, Items, Card, Path]:
        with self._lock:
            self._refresh()
            return self._view, self._items, self._card, self.folder / self._card.data

    def _change(self) -> None:
        if not self._writable:
            raise ValueError("this index was opened to search; open it with writable=True")

    def _write_count(self) -> None:
        count = self._items.state().items
        with contextlib.suppress(
            UserError
        ):  # the database decides; the card's number is for readers of the file
            write_card(self.folder, dataclasses.replace(self._card, count=count))

    def _refresh(self) -> None:
        """Look for changes of this and other processes."""
        stamp = _stamp(self.folder / CARD)
        try:
            moved = stamp != self._card_stamp and read_card(self.folder).data != self._card.data
        except UserError as error:  # it was there when the index was opened
            raise UnavailableError(str(error)) from error
        if moved:
            self._items.close()
            self._load()
            return
        self._card_stamp = stamp
        state = self._items.state()
        if state.change != self._view.state.change:
            self._view = self._next_view(state, self._view)

    def _load(self) -> None:
        for _ in range(_ATTEMPTS):  # between the card and the files, another process may exchange the data
            self._card_stamp = _stamp(self.folder / CARD)
            self._card = read_card(self.folder)
            data = self.folder / self._card.data
            try:
                self._items = Items(data)
                self._vectors = VectorFile(data, self._card.dimension)
                self._view = self._next_view(self._items.state(), None)
                return
            except UserError:
                if read_card(self.folder).data == self._card.data:
                    raise

    def _next_view(self, state: State, before: View | None) -> View:
        vectors, checks = self._vectors.open(state.rows)
        alive = None
        if state.items < state.rows:
            alive = np.ones(state.rows, bool)
            if before is not None and before.alive is not None:
                alive[: len(before.alive)] = before.alive
            alive[self._items.dead_rows(before.state.change if before else -1)] = False

        def part(start: int, engine: exact.Engine | None = None, end: int = state.rows) -> Part:
            path = self.folder / self._card.data / VECTORS
            scan = exact.Scan(vectors[start:end], checks[start:end], path)
            return Part(start, end, engine or scan, scan.everything)

        built = self._built_engine(len(vectors)) if before is None else None
        parts = [part(0, built, self._card.rows)] if built else []
        parts += [
            each for each in (before.parts if before else ()) if not isinstance(each.engine, exact.Scan)
        ]
        covered = parts[-1].end if parts else 0
        if self._resident and self._card.engine != "scan" and state.rows - covered > _SCANNED_ROWS:
            codes = codes_of(vectors[covered:])
            if codes is not None:
                parts.append(part(covered, Int8(codes, THREADS)))
                covered = state.rows
        if covered < state.rows:
            parts.append(part(covered))
        return View(state, vectors, checks, alive, tuple(parts))

    def _built_engine(self, rows: int) -> exact.Engine | None:
        """Return the engine that the card names, if this index searches by it."""
        card, data = self._card, self.folder / self._card.data
        if card.rows > rows:
            raise damaged(self.folder / CARD, f"its engine holds {card.rows} rows of {rows}")
        searches_by = kinds.FILES if self._resident else ("lists",) if self._writable else ("lists", "int8")
        if card.engine not in searches_by:
            return None
        return kinds.load_engine(data, saved_engine(card), card.dimension, THREADS)


def _hit(item: Item, score: float) -> Hit:
    return Hit(item.id, score, item.caption, item.metadata)


def saved_engine(card: Card) -> Saved:
    """Return what the card says of the engine's file."""
    return Saved(card.engine, card.rows, card.check, card.parameters)


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the right to write into the index of `folder`; raise UserError where another process does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "writer.lock", "a")  # noqa: SIM115
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{folder}: another process writes into this index: wait for it to end"
            ) from error
        yield


def clean(folder: Path) -> None:
    """Remove what processes that were killed have left in an index: data that no card names."""
    card = read_card(folder)
    kept = {card.data, card.previous}
    for path in folder.iterdir():
        if path.is_dir() and (path.name == "compacting" or path.name.isdigit() and path.name not in kept):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name.startswith(f".{CARD}."):
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UnavailableError:
    """Return the error for a disk that refuses."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space" if full else "name a folder that can be written, or mend this one"
    return UnavailableError(
        f"cannot write {path}: {error.strerror or error}; what was acknowledged before is intact: {remedy}"
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error.strerror}: the index has gone") from error
    return found.st_mtime_ns, found.st_ino
