"""Conditions on items, such as `year >= 2010 and not (tags contains "dog" or place = "Rome")`.

    condition  = term {"or" term}        term = factor {"and" factor}
    factor     = "not" factor | "(" condition ")" | "has" key | key relation value
    relation   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "contains"
    value      = "text" | number | true | false, and after "in" a list of them, [1, 2, 3]
    key        = a name, dotted for an object in an object; in quotes if it has other characters

A comparison is false for an item that lacks the key, or has null or a value of another type there. `id` and
`caption` are keys of every item. `contains` finds a member of a list, or a part of a text.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from config.errors import UserError, cut

COLUMNS = ("id", "caption")  # keys that are no metadata
_DEPTH = 40
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|'
    r"(?P<name>[^\W\d][\w-]*(?:\.[\w-]+)*)|(?P<sign><=|>=|!=|[=<>()\[\],]))"
)
_RELATIONS = ("=", "!=", "<", "<=", ">", ">=", "in", "contains")
_WORDS = ("and", "or", "not", "in", "contains", "has", "true", "false")

Value = str | float | int | bool


@dataclass(frozen=True)
class Comparison:
    """`key relation value`; the relation "has" has no value, and "in" a tuple of them."""

    key: str
    relation: str
    value: Value | tuple[Value, ...] | None = None


@dataclass(frozen=True)
class Junction:
    """Conditions, all of which hold ("and"), or one of which does ("or"), or one that does not ("not")."""

    word: str
    parts: tuple["Condition", ...]


Condition = Comparison | Junction


def parse_filter(text: str, keys: Iterable[str]) -> Condition:
    """Return the condition that `text` writes down; `keys` are those that some item has.

    Raises UserError that says what was expected where, and for an unknown key which one was probably meant.
    """
    return _Parser(text, [*COLUMNS, *keys]).whole()


class _Parser:
    def __init__(self, text: str, keys: list[str]) -> None:
        self._text, self._keys, self._depth = text, keys, 0
        self._tokens: list[tuple[str, str, int]] = []  # kind, text, place
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if not found:
                raise self._error(f"cannot read {text[place:].strip()[:20]!r}", place)
            self._tokens.append((found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            place = found.end()
        self._tokens.append(("end", "the end", len(text)))

    def whole(self) -> Condition:
        condition = self._junction("or")
        if self._tokens[0][0] != "end":
            raise self._expected('"and", "or" or the end')
        return condition

    def _junction(self, word: str) -> Condition:
        part = self._factor if word == "and" else lambda: self._junction("and")
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Junction(word, tuple(parts))

    def _factor(self) -> Condition:
        self._depth += 1
        if self._depth > _DEPTH:
            raise self._error(f"more than {_DEPTH} conditions inside each other", self._tokens[0][2])
        try:
            if self._take("not"):
                return Junction("not", (self._factor(),))
            if self._take("("):
                inner = self._junction("or")
                self._need(")")
                return inner
            if self._take("has"):
                return Comparison(self._key(), "has")
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Comparison:
        key = self._key()
        kind, relation, _ = self._tokens[0]
        if kind not in ("sign", "name") or relation not in _RELATIONS:
            raise self._expected(f"one of {' '.join(_RELATIONS)} after {key}")
        self._tokens.pop(0)
        if relation == "=" and self._tokens[0][1] == "=":
            raise self._error('expected "=", got "=="', self._tokens[0][2] - 1)
        if relation != "in":
            return Comparison(key, relation, self._value())
        self._need("[")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._need("]")
        return Comparison(key, relation, tuple(values))

    def _key(self) -> str:
        kind, text, _ = self._tokens[0]
        if kind not in ("name", "text") or text in _WORDS:
            raise self._expected("a key")
        key = json.loads(text) if kind == "text" else text
        if key not in self._keys:
            raise UserError(f"filter: no item has the key {cut(key)!r}; {_advice(key, self._keys)}")
        self._tokens.pop(0)
        return key

    def _value(self) -> Value:
        kind, text, _ = self._tokens[0]
        if kind in ("text", "number") or text in ("true", "false"):
            try:
                value = json.loads(text)
            except ValueError as error:
                raise self._expected("a value as JSON writes it") from error
            self._tokens.pop(0)
            return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value
        raise self._expected('a value (a number, true, false or a "text" in double quotes)')

    def _take(self, text: str) -> bool:
        if self._tokens[0][0] in ("name", "sign") and self._tokens[0][1] == text:
            self._tokens.pop(0)
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self._expected(f'"{text}"')

    def _expected(self, what: str) -> UserError:
        return self._error(f"expected {what}, got {cut(self._tokens[0][1])}", self._tokens[0][2])

    def _error(self, problem: str, place: int) -> UserError:
        return UserError(f"filter: {problem} (character {place + 1} of {cut(self._text, 120)!r})")


def _advice(key: str, keys: list[str]) -> str:
    close = get_close_matches(key, keys, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"there are {', '.join(keys[:5])}{more}"


def keys_of(metadata: dict, above: str = "") -> list[str]:
    """Return the dotted keys of an object, and of the objects in it.

    Keys that are empty, or hold a dot, a quotation mark or a backslash, are left out: they cannot be
    asked for.
    """
    keys = []
    for key, value in metadata.items():
        if not key or set(key) & set('."\\'):
            continue
        keys.append(above + key)
        if isinstance(value, dict):
            keys += keys_of(value, f"{above}{key}.")
    return keys


def as_sql(condition: Condition) -> tuple[str, list[Value]]:
    """Return the condition on the table of items as SQLite's expression, and the values of its `?`."""
    if isinstance(condition, Junction):
        parts = [as_sql(part) for part in condition.parts]
        values = [value for part in parts for value in part[1]]
        if condition.word == "not":
            return f"NOT {parts[0][0]}", values
        return f"({f' {condition.word.upper()} '.join(part[0] for part in parts)})", values
    key, relation, value = condition.key, condition.relation, condition.value
    if relation == "in":
        return as_sql(Junction("or", tuple(Comparison(key, "=", each) for each in value)))
    if key in COLUMNS:
        return _column_as_sql(key, relation, value)
    path = "$" + "".join(f'."{part}"' for part in key.split("."))
    if relation == "has":
        return "IFNULL(json_type(metadata, ?) != 'null', 0)", [path]
    types = _json_types(value)
    if relation == "contains":
        members = (
            f"EXISTS (SELECT 1 FROM json_each(metadata, ?) AS m WHERE m.type IN ({types}) AND m.value = ?)"
        )
        sql, values = f"(json_type(metadata, ?) = 'array' AND {members})", [path, path, value]
        if isinstance(value, str):
            part = "json_type(metadata, ?) = 'text' AND instr(json_extract(metadata, ?), ?) > 0"
            sql, values = f"({sql} OR ({part}))", [*values, path, path, value]
        return f"IFNULL({sql}, 0)", values
    if relation == "!=":
        there, _ = as_sql(Comparison(key, "has"))
        same, values = as_sql(Comparison(key, "=", value))
        return f"({there} AND NOT {same})", [path, *values]
    compared = f"json_type(metadata, ?) IN ({types}) AND json_extract(metadata, ?) {relation} ?"
    return f"IFNULL({compared}, 0)", [path, path, value]


def _column_as_sql(key: str, relation: str, value: Value | None) -> tuple[str, list[Value]]:
    if relation == "has":
        return f"{key} IS NOT NULL", []
    if not isinstance(value, str):
        raise UserError(f"filter: {key} is a text, got {json.dumps(value)}: write it in double quotes")
    if relation == "contains":
        return f"IFNULL(instr({key}, ?) > 0, 0)", [value]
    return f"IFNULL({key} {relation} ?, 0)", [value]


def _json_types(value: Value) -> str:
    if isinstance(value, bool):
        return "'true', 'false'"
    return "'text'" if isinstance(value, str) else "'integer', 'real'"
