"""Conditions on items in Milvus' own language, and metadata as they are stored to be compared."""

import json

from config.errors import UserError
from serving.index.filters import COLUMNS, Comparison, Condition, Junction, Value

_TRUE, _FALSE = "\ue000true", "\ue000false"  # Milvus Lite takes 1 for true, so truth is stored as text


def as_milvus(condition: Condition, holds: bool = True) -> str:
    """Return the condition, or with `holds` false its opposite, in Milvus' own language.

    Milvus and Milvus Lite differ on the opposite of a comparison with a key that an item lacks, so that "not"
    is written with `exists`.
    """
    if isinstance(condition, Junction):
        if condition.word == "not":
            return as_milvus(condition.parts[0], not holds)
        joined = condition.word if holds else {"and": "or", "or": "and"}[condition.word]
        return "(" + f" {joined} ".join(as_milvus(part, holds) for part in condition.parts) + ")"
    key, relation, value = condition.key, condition.relation, condition.value
    if relation == "in":
        return as_milvus(Junction("or", tuple(Comparison(key, "=", each) for each in value)), holds)
    if key in COLUMNS:
        if relation == "contains":
            raise UserError(
                f"filter: {key} contains ...: a Milvus finds members of lists, not parts of texts"
            )
        if relation != "has" and not isinstance(value, str):
            raise UserError(f"filter: {key} is a text, got {json.dumps(value)}: write it in double quotes")
        there, field = f'({key} != "")', key
    else:
        field = "metadata" + '["in"]'.join(f"[{quoted(part)}]" for part in key.split("."))
        there = f"(exists {field})"
    if relation == "has":
        return there if holds else f"(not {there})"
    if relation == "!=":
        same = as_milvus(Comparison(key, "=", value))
        return f"({there} and not {same})" if holds else f"(not {there} or {same})"
    if key not in COLUMNS:
        field += '["list"]' if relation == "contains" else f"[{quoted(_kind(value))}]"
        there = f"(exists {field})"
    compared = (
        f"json_contains({field}, {_literal(value)})"
        if relation == "contains"
        else f"{field} {'==' if relation == '=' else relation} {_literal(value)}"
    )
    return f"({there} and {compared})" if holds else f"(not {there} or not ({compared}))"


def filtered_by(metadata: dict) -> dict:
    """Return metadata as they are stored to be compared: each value below the name of its kind.

    So a comparison with a value of another kind is one with a key that is not there, in Milvus Lite too.
    """
    found = {}
    for key, value in metadata.items():
        if isinstance(value, dict):
            found[key] = {"in": filtered_by(value)}
        elif isinstance(value, list):
            found[key] = {
                "list": [_plain(each) for each in value if isinstance(each, str | bool | int | float)]
            }
        elif value is not None:
            found[key] = {_kind(value): _plain(value)}
    return found


def _literal(value: Value) -> str:
    value = _plain(value)
    if isinstance(value, str):
        return quoted(value)
    return repr(min(max(value, -1.7e308), 1.7e308) if isinstance(value, float) else value)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _kind(value: Value) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _plain(value: Value) -> Value:
    return (_TRUE if value else _FALSE) if isinstance(value, bool) else value
