"""The command line: `KEY=VALUE` overrides."""

import re
from collections.abc import Sequence

import yaml

from config.errors import UserError
from config.names import find_key
from config.task_files import Setting, compose_yaml, plain_value
from config.values import check_value, parse_plain, show, user_error

WHERE = "command line"
_OVERRIDE = re.compile(r"\w+\.\w+=")


def read_override(override: str, following: str | None = None) -> Setting:
    """Return the setting that a `KEY=VALUE` makes.

    `following` is the next override; the message to a user who wrote `KEY VALUE` quotes it. The value of a
    text key is taken literally; other values are read as in a task file. Raises UserError for a wrong form,
    key or value.
    """
    full, equals, text = override.partition("=")
    if not equals:
        value = following if following is not None and "=" not in following else "VALUE"
        raise user_error(WHERE, f"expected KEY=VALUE, got {show(override)}; write {override}={value}")
    key = find_key(full, WHERE)
    section, _, name = full.partition(".")
    value: object
    if isinstance(key.default, str):
        value = text
    elif isinstance(key.default, list):
        value = _read_list(text.strip(), literal=key.element is str)
    else:
        value = parse_plain(text.strip())
    return Setting(section, name, check_value(full, key, value, WHERE), WHERE)


def split_overrides(words: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Split the `words` of an option with several values into those values and the `KEY=VALUE` among them."""
    overrides = [word for word in words or () if _OVERRIDE.match(word)]
    return [word for word in words or () if word not in overrides], overrides


def _read_list(text: str, literal: bool) -> object:
    """Return the list that `[a, b]` stands for (of texts if `literal`); return other text unchanged."""
    try:
        node = compose_yaml(text, WHERE)
    except UserError:
        return text
    if not isinstance(node, yaml.SequenceNode):
        return text
    if literal and all(isinstance(element, yaml.ScalarNode) for element in node.value):
        return [element.value for element in node.value]
    return plain_value(node, WHERE)
