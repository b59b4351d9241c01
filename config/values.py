"""What a value in a task file or on the command line means, and whether its key accepts it.

Text is read by the core schema of YAML 1.2, so that `1e-4` is a number and `off` is text. PyYAML follows YAML
1.1, by which `1e-4` is text and `off` is false.
"""

import json
import math
import os
import re
from difflib import get_close_matches
from pathlib import Path

from config.default import Key, Scalar
from config.errors import UserError

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + name: math.inf for sign in ("", "+") for name in (".inf", ".Inf", ".INF")},
    **{"-" + name: -math.inf for name in (".inf", ".Inf", ".INF")},
}
SPLIT = "{split}"  # stands for the split's name in the name of a file
LONGEST_INTEGER = 300  # digits; a longer integer overflows a float, and Python may refuse to parse it


def parse_plain(text: str) -> Scalar | None:
    """Return the value of unquoted text: None, a truth value, a number or the text itself."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text) and len(text) <= LONGEST_INTEGER:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    return float(text) if NUMBER.fullmatch(text) else text


def show(value: object) -> str:
    """Return `value` on one line, spelled as in a task file, and shortened if it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(show(element) for element in value) + "]"
    elif isinstance(value, float) and not math.isfinite(value):
        text = f".{value}".replace(".-", "-.")
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def of_split(setting: str, split: str) -> str:
    """Return a setting that names a file or folder, with `{split}` replaced by the name of `split`."""
    return setting.replace(SPLIT, split)


def data_path(data_dir: str | os.PathLike, setting: str, split: str) -> Path:
    """Return the path of a file or folder of the data set, which a setting names, for `split` (PATH_RULE).

    That is `setting` in `data_dir` or, if nothing is there, in the working folder. A path that leads nowhere
    is in `data_dir`.
    """
    name = of_split(setting, split)
    inside = Path(data_dir) / name
    return Path(name) if not os.path.lexists(inside) and os.path.lexists(name) else inside


def user_error(where: str, problem: str) -> UserError:
    """Return the error for `problem` at `where` (a file and line, or the command line), on one line."""
    return UserError(" ".join(f"{where}: {problem}".split()))


def describe_bounds(key: Key) -> str:
    """Return what `key` accepts, such as `a number above 0`."""
    if isinstance(key.default, list):
        one, several = _words_for(key.element)
        if key.choices is not None:
            several = "of " + ", ".join(str(choice) for choice in key.choices)
        count = f"{key.length} " if key.length is not None else ""
        return f"a list of {count}{several}{_range(key)}"
    if key.choices is not None:
        return "one of " + ", ".join(str(choice) for choice in key.choices)
    if key.path:
        return "a path" + (", in DATA_DIR first" if key.path == "DATA_DIR" else "")
    return _words_for(type(key.default))[0] + _range(key)


def _words_for(kind: type | None) -> tuple[str, str]:
    return {
        bool: ("true or false", "truth values"),
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        str: ("text", "texts"),
    }[kind]


def _range(key: Key) -> str:
    bounds = []
    if key.minimum is not None:
        bounds.append(f"of at least {key.minimum:g}")
    if key.above is not None:
        bounds.append(f"above {key.above:g}")
    if key.maximum is not None:
        bounds.append(f"at most {key.maximum:g}")
    if key.below is not None:
        bounds.append(f"below {key.below:g}")
    return (" " if bounds else "") + " and ".join(bounds)


def check_value(name: str, key: Key, value: object, where: str) -> Scalar | list:
    """Return `value` as the type of `key`.

    `name` is the key's full name, and `where` is the file and line, or the command line. Raises UserError
    that says what was expected and what came.
    """
    if not isinstance(key.default, list):
        return _check_scalar(name, key, type(key.default), value, where, show(value))
    if not isinstance(value, list):
        raise _wrong(name, key, show(value), where, "write it in brackets, such as [a, b]")
    if key.length is not None and len(value) != key.length:
        raise _wrong(name, key, show(value), where)
    return [_check_scalar(name, key, key.element, each, where, f"the element {show(each)}") for each in value]


def _check_scalar(name: str, key: Key, kind: type, value: object, where: str, got: str) -> Scalar:
    if kind is float and type(value) is int and abs(value) < 10**LONGEST_INTEGER:
        value = float(value)
    if type(value) is not kind:  # isinstance would accept a truth value as an int
        raise _wrong(name, key, got, where, _type_advice(kind, value))
    if key.choices is not None and value not in key.choices:
        raise _wrong(name, key, got, where, _choice_advice(key.choices, value))
    if not isinstance(value, str) and not _in_range(key, value):
        raise _wrong(name, key, got, where)
    return value


def _in_range(key: Key, value: float) -> bool:
    return (
        math.isfinite(value)
        and (key.minimum is None or value >= key.minimum)
        and (key.above is None or value > key.above)
        and (key.maximum is None or value <= key.maximum)
        and (key.below is None or value < key.below)
    )


def _type_advice(kind: type, value: object) -> str:
    if value is None:
        return 'write "" for empty text' if kind is str else ""
    if kind is str and not isinstance(value, list | dict):
        return "put it in quotes"
    if isinstance(value, str) and type(parse_plain(value)) in (kind, int) and kind is not str:
        return "remove the quotes"
    return ""


def _choice_advice(choices: tuple[Scalar, ...], value: Scalar) -> str:
    close = get_close_matches(str(value).lower(), [str(choice) for choice in choices], n=1)
    return f"did you mean {close[0]}?" if close else ""


def _wrong(name: str, key: Key, got: str, where: str, advice: str = "") -> UserError:
    problem = f"{name}: expected {describe_bounds(key)}, got {got}"
    return user_error(where, f"{problem}; {advice}" if advice else problem)
