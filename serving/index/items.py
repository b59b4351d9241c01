"""What an index knows of its items: ids, captions and metadata, in SQLite, with the rows of their vectors.

A row is the place of a vector in the file of vectors. It is given once: an item that is updated gets a
new row, and the row of one that is deleted stays unused until the index is compacted. A transaction of
this database is the moment in which a change becomes true; the vectors are on the disk before.
"""

import contextlib
import json
import os
import sqlite3
import threading
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path

import numpy as np

from config.errors import UnavailableError, UserError, cut
from serving.index.filters import Condition, as_sql, keys_of
from serving.index.vectors import damaged

FILE = "items.sqlite"
_FORMAT = 1
_TABLES = """
CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, caption TEXT, metadata TEXT, crc
INTEGER); CREATE TABLE dead (row INTEGER PRIMARY KEY, change INTEGER NOT NULL); CREATE INDEX
dead_by_change ON dead (change); CREATE TABLE keys (name TEXT PRIMARY KEY) WITHOUT ROWID; CREATE TABLE
state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID; INSERT INTO state VALUES ('format',
1), ('rows', 0), ('items', 0), ('change', 0);
"""
_SECTOR = 512  # bytes, of which every whole file of SQLite has a multiple
_DEEPEST = 100  # lists and objects within each other, which whatever writes an answer as JSON can take
_decoded = json.JSONDecoder().decode  # `json.loads` would look at its options for every item
_LIKE = "id LIKE ? ESCAPE '!'"
_PART = 500  # rows or ids that one query names


@dataclass(frozen=True)
class Item:
    """An item of a collection: its id, the sentence that describes it, and any JSON object."""

    id: str
    caption: str | None = None
    metadata: dict = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """How many rows have been given, how many items there are, and the number of the last change."""

    rows: int
    items: int
    change: int


class Items:
    """The database in `folder`; threads may share it. Raises UserError where it cannot be read."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.path = folder / FILE
        self._lock = threading.RLock()
        if not create and not self.path.exists():
            raise damaged(self.path, "the file is missing")
        with self._refused():
            self._connection = _connect(self.path)
            if create and not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
            found = self._connection.execute("SELECT value FROM state WHERE name = 'format'").fetchone()
        if found != (_FORMAT,) and self.path.stat().st_size % _SECTOR:
            raise damaged(self.path, "it is cut short")
        if found != (_FORMAT,):
            raise UserError(f"{self.path}: another version of this format: build the index again")

    def close(self) -> None:
        """Close the file; what has been acknowledged stands in it."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def state(self) -> State:
        """Return the present state."""
        with self._reading() as execute:
            values = dict(execute("SELECT name, value FROM state").fetchall())
        found = [values.get(name) for name in ("rows", "items", "change")]
        if not all(type(value) is int and value >= 0 for value in found):
            raise damaged(self.path, "its state is no count of rows, items and changes")
        return State(*found)

    def insert(self, items: Sequence[Item], replace: bool = False) -> None:
        """Give the next rows to `items`, whose vectors are on the disk, in one transaction.

        `replace`: an item whose id is there is updated. Raises UserError that names ids which are there
        already, or twice among `items`; then nothing has changed.
        """
        with self._writing() as (execute, state):
            ids = [item.id for item in items]
            there = self._rows_of(execute, ids)
            if not replace:
                refuse_known(ids, there)
            self._bury(execute, list(there.values()), state)
            rows = range(state.rows, state.rows + len(items))
            self._connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
                [(row, *_as_columns(item)) for row, item in zip(rows, items, strict=True)],
            )
            names = {(key,) for item in items for key in keys_of(item.metadata)}
            self._connection.executemany("INSERT OR IGNORE INTO keys VALUES (?)", names)
            _count(execute, "rows", len(items))
            _count(execute, "items", len(items) - len(there))

    def describe_again(self, items: Sequence[Item]) -> None:
        """Replace captions and metadata of `items`, not their vectors; raise UserError for unknown ids."""
        with self._writing() as (execute, _):
            there = self._rows_of(execute, [item.id for item in items])
            refuse_unknown([item.id for item in items], there, self.path.parent)
            for item in items:
                execute("DELETE FROM items WHERE row = ?", (there[item.id],))
                execute("INSERT INTO items VALUES (?, ?, ?, ?, ?)", (there[item.id], *_as_columns(item)))
                for key in keys_of(item.metadata):
                    execute("INSERT OR IGNORE INTO keys VALUES (?)", (key,))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items in one transaction; raise UserError that names ids which are not there."""
        with self._writing() as (execute, state):
            there = self._rows_in_any_form(execute, ids)
            refuse_unknown(ids, there, self.path.parent)
            rows = sorted(set(there.values()))
            self._bury(execute, rows, state)
            _count(execute, "items", -len(rows))

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of those of `ids` that are there, perhaps in another form of Unicode."""
        with self._reading() as execute:
            return self._rows_in_any_form(execute, ids)

    def called(self, name: str, most: int = 3) -> list[str]:
        """Return at most so many ids that are `name` in some folder, or with some ending."""
        plain = name.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        forms = [f"%/{plain}", f"{plain}.%", f"%/{plain}.%"]
        query = f"SELECT id FROM items WHERE {' OR '.join([_LIKE] * 3)} LIMIT ?"
        with self._reading() as execute:
            return [cut(found, 80) for (found,) in execute(query, (*forms, most))]

    def at(self, rows: Iterable[int]) -> dict[int, Item]:
        """Return the items of those of `rows` that are in use; raise UserError for one that has changed."""
        wanted = [int(row) for row in rows]
        found = {}
        with self._reading() as execute:
            for start in range(0, len(wanted), _PART):
                part = wanted[start : start + _PART]
                query = f"SELECT * FROM items WHERE row IN ({_marks(part)})"
                for row, *columns in execute(query, part):
                    found[row] = self._as_item(row, columns)
        return found

    def all(self) -> Iterator[tuple[int, Item]]:
        """Yield all rows in use with their items, in the order of rows."""
        last = -1
        while True:
            with self._reading() as execute:
                part = execute(
                    "SELECT * FROM items WHERE row > ? ORDER BY row LIMIT 10000", (last,)
                ).fetchall()
            if not part:
                return
            for row, *columns in part:
                yield row, self._as_item(row, columns)
            last = part[-1][0]

    def rows_where(self, condition: Condition) -> np.ndarray:
        """Return the rows [n] of the items that meet a condition, in order."""
        sql, values = as_sql(condition)
        with self._reading() as execute:
            found = execute(f"SELECT row FROM items WHERE {sql} ORDER BY row", values).fetchall()
        return np.fromiter((row for (row,) in found), np.int64, len(found))

    def dead_rows(self, after_change: int = -1) -> np.ndarray:
        """Return the rows [n] whose items were deleted or updated by a later change than `after_change`."""
        with self._reading() as execute:
            found = execute("SELECT row FROM dead WHERE change > ?", (after_change,)).fetchall()
        return np.fromiter((row for (row,) in found), np.int64, len(found))

    def keys(self) -> list[str]:
        """Return the dotted keys that the metadata of some item has or had."""
        with self._reading() as execute:
            return [name for (name,) in execute("SELECT name FROM keys ORDER BY name")]

    def verify(self) -> None:
        """Read everything; raise UserError if anything is not what was written."""
        with self._reading() as execute:
            problems = execute("PRAGMA integrity_check(1)").fetchall()
        if problems != [("ok",)]:
            raise damaged(self.path, " ".join(str(problems[0][0]).split())[:100])
        if sum(1 for _ in self.all()) != self.state().items:
            raise damaged(self.path, "items are missing")

    def _rows_of(self, execute, ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(ids), _PART):
            part = list(ids[start : start + _PART])
            found.update(execute(f"SELECT id, row FROM items WHERE id IN ({_marks(part)})", part).fetchall())
        return found

    def _rows_in_any_form(self, execute, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of `ids`, also of one whose letters and accents the index has in another form."""
        found = self._rows_of(execute, ids)
        for name in ids:
            if name not in found and not name.isascii():
                forms = sorted({unicodedata.normalize(form, name) for form in ("NFC", "NFD")})
                others = self._rows_of(execute, forms)
                if len(others) == 1:
                    found[name] = next(iter(others.values()))
        return found

    def _bury(self, execute, rows: list[int], state: State) -> None:
        for row in rows:
            execute("DELETE FROM items WHERE row = ?", (row,))
            execute("INSERT INTO dead VALUES (?, ?)", (row, state.change + 1))

    def _as_item(self, row: int, columns: Sequence) -> Item:
        if len(columns) != 4:
            raise damaged(self.path, f"the item of row {row + 1} has {len(columns)} columns, expected 4")
        identity, caption, metadata, crc = columns
        if not isinstance(identity, str) or crc != _crc(identity, caption, metadata):
            raise damaged(self.path, f"the item of row {row + 1} is not what was written")
        return Item(identity, caption, _decoded(metadata) if metadata else {})

    @contextlib.contextmanager
    def _reading(self) -> Iterator:
        with self._lock, self._refused():
            yield self._connection.execute

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple]:
        with self._lock, self._refused():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute, self.state()
                _count(self._connection.execute, "change", 1)
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UnavailableError(
                f"{self.path}: {cut(error, 80)}; what was acknowledged before is intact"
            ) from error
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise damaged(self.path, cut(error, 80)) from error


def checked_items(items: Iterable[Item], what: str) -> list[Item]:
    """Return the items as a list; `what` names them in messages.

    Raises UserError for an id that is no text, or stands twice, and as `check_metadata` does.
    """
    checked, seen = [], set()
    for number, item in enumerate(items, start=1):
        if not isinstance(item.id, str) or not item.id or "\0" in item.id:
            raise UserError(f"{what}: item {number}: expected a text as id, got {item.id!r}")
        if item.id in seen:
            raise UserError(f"{what}: the id {item.id!r} is there twice: give each item an id of its own")
        check_metadata(item.metadata, f"{what}: {item.id!r}")
        check_text(f"{item.id}{item.caption or ''}", f"{what}: {item.id!r}: the id or the caption")
        seen.add(item.id)
        checked.append(item)
    return checked


def check_metadata(metadata: object, where: str) -> None:
    """Raise UserError for metadata that are no JSON object, or nested too deeply; `where` begins it."""
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: expected a JSON object as metadata, got {cut(metadata, 60)}")
    level = [metadata]
    for _ in range(_DEEPEST):
        level = [inner for each in level for inner in _inside(each) if isinstance(inner, dict | list | tuple)]
    if level:
        raise UserError(
            f"{where}: expected metadata of lists and objects at most {_DEEPEST} deep within each other, got "
            "more: make them flatter"
        )
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the metadata are not JSON ({error})") from error
    check_text(text, f"{where}: the metadata")


def check_text(text: str, where: str) -> None:
    """Raise UserError, which `where` begins, for half of a surrogate pair: no file holds that as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(
            f"{where}: {half} is half a letter, expected whole ones: mend it, or leave it out"
        ) from error


def _inside(value: dict | list | tuple) -> Iterable:
    return value.values() if isinstance(value, dict) else value


def refuse_unknown(
    ids: Sequence[str], there: Iterable[str], where: object, result: str = "nothing has been changed"
) -> None:
    """Raise UserError that names those of `ids` that are not among `there`; `result` is what it ends with."""
    missing = list(dict.fromkeys(each for each in ids if each not in there))
    if missing:
        raise UserError(f"{where}: there is no item {_some(missing)}: {result}")


class AlreadyThereError(UserError):
    """Tells that items which are to be added are in the index."""


def refuse_known(ids: Sequence[str], there: Iterable[str]) -> None:
    """Raise AlreadyThereError that names those of `ids` that are among `there`."""
    known = [each for each in ids if each in there]
    if len(known) > 1:
        raise AlreadyThereError(f"there are items {_some(known)} already: update them, or delete them first")
    if known:
        raise AlreadyThereError(f"there is an item {_some(known)} already: update it, or delete it first")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name if len(name) <= 80 else cut(name, 80)) for name in names[:5])
    return f"{shown} ({len(names)} in all)" if len(names) > 5 else shown


def _connect(path: Path) -> sqlite3.Connection:
    log = path.with_name(path.name + "-wal")
    if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection
    where = f"{path.resolve().as_uri()}?immutable=1"  # such as a read-only mount, where no log can be opened
    return sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)


def _count(execute, name: str, more: int) -> None:
    execute("UPDATE state SET value = value + ? WHERE name = ?", (more, name))


def _as_columns(item: Item) -> tuple[str, str | None, str | None, int]:
    metadata = json.dumps(item.metadata, ensure_ascii=False) if item.metadata else None
    return item.id, item.caption, metadata, _crc(item.id, item.caption, metadata)


def _crc(identity: str, caption: str | None, metadata: str | None) -> int:
    return zlib.crc32(f"[{_quoted(identity)}, {_quoted(caption)}, {_quoted(metadata)}]".encode())


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


def _marks(values: Sequence) -> str:
    return ", ".join("?" * len(values))
