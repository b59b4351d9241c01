"""Task files: read YAML with `_BASE_` inheritance into single settings, and write it.

PyYAML only composes the file into nodes here; `config/values.py` reads the values from the nodes. Nodes keep
their lines for messages, and tags that construct objects are refused.
"""

import os
from dataclasses import dataclass

import yaml

from config.default import KEYS
from config.errors import cut
from config.files.kinds import mistaken_text
from config.names import find_key, suggest, unknown_name
from config.values import check_value, parse_plain, show, user_error

BASE = "_BASE_"


@dataclass(frozen=True)
class Setting:
    """One checked value: the section and name of its key, and where it was given."""

    section: str
    name: str
    value: object
    where: str


def read_settings(path: str, opened: tuple[str, ...] = ()) -> list[Setting]:
    """Return the settings of a task file, after those that it inherits by `_BASE_`.

    `opened` is the chain of files that inherit this one. Later settings override earlier ones. Raises
    UserError for a file that is missing, is not UTF-8 or not YAML, inherits itself, or holds a wrong key or
    value.
    """
    shown = os.path.normpath(path)
    if os.path.realpath(path) in [os.path.realpath(before) for before in opened]:
        chain = " -> ".join(os.path.normpath(step) for step in (*opened, path))
        raise user_error(shown, f"{BASE}: expected files that do not inherit themselves, got {chain}")
    entries = _mapping_entries(compose_yaml(_read_text(path), shown), shown)
    inherited = [
        setting
        for base in _bases(entries.pop(BASE, None), path, shown)
        for setting in read_settings(base, (*opened, path))
    ]
    return inherited + [
        setting
        for section, (line, node) in entries.items()
        for setting in _section_settings(section, node, line, shown)
    ]


def _read_text(path: str) -> str:
    shown = os.path.normpath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise user_error(shown, "there is no such task file") from None
    except IsADirectoryError:
        raise user_error(
            shown, "expected a task file or the folder of a run, got a folder without config.yaml"
        ) from None
    except OSError as error:
        raise user_error(shown, f"cannot read the task file: {error.strerror}") from None
    if kind := mistaken_text(content):
        raise user_error(shown, kind)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise user_error(
            f"{shown}, line {line}", f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}"
        ) from None


_LONGEST = 500_000  # characters of a file: the parser takes seconds for more


def compose_yaml(text: str, shown: str) -> yaml.Node | None:
    """Return the root node of YAML `text`, None if the text is empty.

    `shown` is the file's name in messages. Raises UserError that names the line.
    """
    if len(text) > _LONGEST or text.count("[") + text.count("{") > _LONGEST // 100:
        raise user_error(
            shown, f"expected sections with keys, got {len(text):,} characters of something else"
        )
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"{error.context or ''} {error.problem or ''}"
        advice = "; indent with spaces, not tabs" if r"'\t'" in problem else ""
        raise user_error(
            f"{shown}, line {mark.line + 1}", f"expected YAML: {cut(problem, 160)}{advice}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        code = f"U+{ord(text[error.position]):04X}"
        raise user_error(f"{shown}, line {line}", f"expected YAML, got the character {code}") from None
    except RecursionError:
        raise user_error(shown, "expected sections with keys, got YAML nested too deeply") from None


def _mapping_entries(
    node: yaml.Node | None, shown: str, section: str = ""
) -> dict[str, tuple[int, yaml.Node]]:
    """Return name -> (line, node of the value) for the file's root or a section; {} if it is empty."""
    if node is None or (isinstance(node, yaml.ScalarNode) and plain_value(node, shown) is None):
        return {}
    prefix = f"{section}." if section else ""
    if not isinstance(node, yaml.MappingNode):
        expected = f"keys, such as {next(iter(KEYS[section]))}:" if section else "sections, such as MODEL:"
        problem = f"expected {expected}, got {show(plain_value(node, shown))}"
        where = f"{shown}, line {node.start_mark.line + 1}"
        raise user_error(where, f"{section}: {problem}" if section else problem)
    entries: dict[str, tuple[int, yaml.Node]] = {}
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        where = f"{shown}, line {line}"
        if not isinstance(name_node, yaml.ScalarNode):
            raise user_error(where, "expected a name before the colon")
        name = name_node.value
        if name in entries:
            first = entries[name][0]
            raise user_error(where, f"{prefix}{cut(name)}: expected once, got it again after line {first}")
        entries[name] = (line, value_node)
    return entries


def _bases(entry: tuple[int, yaml.Node] | None, path: str, shown: str) -> list[str]:
    """Return the paths that `_BASE_` lists, taken relative to the folder of the file that lists them."""
    if entry is None:
        return []
    line, node = entry
    value = plain_value(node, shown)
    names = value if isinstance(value, list) else [value]
    where = f"{shown}, line {line}"
    if not all(isinstance(name, str) and name for name in names):
        raise user_error(
            where, f"{BASE}: expected the path of a task file or a list of them, got {show(value)}"
        )
    paths = [os.path.join(os.path.dirname(path), name) for name in names]
    for base in paths:
        if not os.path.isfile(base):
            raise user_error(where, f"{BASE}: there is no task file {cut(os.path.normpath(base), 160)}")
    return paths


def _section_settings(section: str, node: yaml.Node, line: int, shown: str) -> list[Setting]:
    if "." in section and section in suggest(section):
        of, _, key = section.partition(".")
        problem = f"{cut(section)}: expected {cut(key)}: indented under {of}:"
        raise user_error(f"{shown}, line {line}", problem)
    if section not in KEYS:
        kind = "section" if isinstance(node, yaml.MappingNode) else "key"
        raise unknown_name(section, kind, f"{shown}, line {line}")
    settings = []
    for name, (key_line, value_node) in _mapping_entries(node, shown, section).items():
        where, full = f"{shown}, line {key_line}", f"{section}.{name}"
        key = find_key(full, where)
        value = check_value(full, key, plain_value(value_node, shown), where)
        settings.append(Setting(section, name, value, where))
    return settings


def plain_value(node: yaml.Node, shown: str) -> object:
    """Return a node's value: a scalar, a list of scalars, or {} for any mapping.

    A list or mapping inside a list becomes empty: no key accepts it, messages need no more, and a YAML alias
    could make it endless.
    """
    if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        where = f"{shown}, line {node.start_mark.line + 1}"
        raise user_error(where, f"expected plain text, numbers and lists, got the YAML tag {cut(node.tag)}")
    if isinstance(node, yaml.ScalarNode):
        return parse_plain(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        scalars = (yaml.ScalarNode, yaml.MappingNode)
        return [plain_value(item, shown) if isinstance(item, scalars) else [] for item in node.value]
    return {}


class _Dumper(yaml.SafeDumper):
    """A dumper that writes text so that `parse_plain` reads it as text, and lists on one line."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if not text.isprintable():
        style = '"'  # escapes line breaks, which some other styles of PyYAML do not read back
    else:
        style = None if parse_plain(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_list(dumper: yaml.SafeDumper, values: list) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def to_yaml(values: dict) -> str:
    """Return `values` (sections of keys, or a part of them) as YAML that reads back exactly the same."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6
    )
