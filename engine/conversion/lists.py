"""VinVL's captions and candidates: pickled lists by image key, which become JSON."""

import json
from pathlib import Path

from config.errors import UserError
from config.files.whole import write_whole
from engine.weights.state_dicts import describe


def convert_lists(source: Path, content: object, output: Path) -> str:
    """Write the lists by image key that `source` holds as JSON; return a line that describes the file.

    Raises UserError for a file that holds anything else, with the key.
    """
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{source}: expected a checkpoint, a vocabulary, or a dict from image keys to lists, got "
            f"{describe(content)}"
        )
    lists = {str(key): _read_list(source, key, text) for key, text in content.items()}
    if len(lists) < len(content):
        raise UserError(f"{source}: some image key comes as a number and as a text: give each image one list")
    lines = (f"{json.dumps(key)}: {json.dumps(lists[key], ensure_ascii=False)}" for key in lists)
    write_whole(output, "{\n" + ",\n".join(lines) + "\n}\n")
    return f"{output}: {len(lists)} images, {sum(map(len, lists.values()))} entries"


def _read_list(source: Path, key: object, text: object) -> list:
    """Return the list under a key, which is given in JSON or as a list."""
    entries = text
    if isinstance(text, str):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}: key {_key(key)}: not JSON: {error}") from error
    if not isinstance(key, int | str) or not isinstance(entries, list):
        raise UserError(f"{source}: key {_key(key)}: expected a list in JSON, got {str(text)[:40]!r}")
    return entries


def _key(key: object) -> str:
    return repr(key) if isinstance(key, int) else repr(str(key)[:40])
