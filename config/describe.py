"""The configuration as text: every key with its default and meaning, and what a task changed."""

import textwrap

from config.default import KEYS, Key
from config.task_files import to_yaml
from config.values import describe_bounds, show

INDENT = " " * 6
INTRODUCTION = """\
# Configuration

<!-- Written by `python tools/show_config.py --markdown > docs/configuration.md`. -->

Every setting is a key in a section, written `SECTION.KEY`. A task file (YAML) overrides the defaults
below, and `KEY=VALUE` on the command line overrides the task file:

```bash
python tools/train_retrieval.py --cfg_file configs/f8k/vsepp.yaml OPTIMIZATION.LR=1e-4 OUTPUT.SAVE_NAME=slow
python tools/show_config.py --cfg_file configs/f8k/vsepp.yaml   # the merged values, changes marked
```

```yaml
_BASE_: ../base/vsepp.yaml     # or a list; relative to this file; later files override earlier ones
MODEL:
  EMBED_DIM: 512
INPUT:
  VOCAB_SPLITS: [train, dev]   # on the command line: 'INPUT.VOCAB_SPLITS=[train,dev]'
```

## Paths

A relative path counts from the working folder, in a task file as on the command line. A file of the
data set (a key that says "in DATA_DIR first") is sought in `DATASET.DATA_DIR` first, and then in the
working folder. `~/` is the home folder. `_BASE_` alone counts from the file that it stands in.

`--cfg_file out/run` means `out/run/config.yaml`. That file keeps whole paths, so a run works from every
folder. If it was moved, what is no longer at its path is sought at the same place beside the run, as
when both were moved together. Older runs kept relative paths, which count from the folder where
training was started if that can still be told, and otherwise from the working folder; a message names
the key to set where neither has the file. The `task.yaml` of `tools/prepare_data.py` works the same
way: its folder may be moved, and photos that are no longer at their path are sought beside it.

## Values

Text is read by YAML 1.2, so `1e-4` is a number and `off` is text; on the command line the value of a
text key is taken literally, and `KEY=` is empty text. A wrong key, type, choice or range is reported on
one line that says where:

```
error: my.yaml, line 3: MODEL.EMBED_DIMS: there is no such key; did you mean MODEL.EMBED_DIM?
```

A run writes its merged values into `config.yaml` in its folder, and every tool accepts that file.
"""


def describe_keys() -> str:
    """Return every key with its default, its meaning and the values that it accepts, for a terminal."""
    lines = []
    for section, keys in KEYS.items():
        lines.append(section)
        for name, key in keys.items():
            lines.append(f"  {name}: {_default(key)}")
            for text in (key.meaning, f"accepts {describe_bounds(key)}"):
                lines += textwrap.wrap(text, width=94, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines) + "\n"


def keys_as_markdown() -> str:
    """Return the content of docs/configuration.md, generated from the keys."""
    parts = [INTRODUCTION]
    for section, keys in KEYS.items():
        parts += [f"\n## {section}\n", "\n| key | default | accepts | meaning |\n|---|---|---|---|\n"]
        for name, key in keys.items():
            cells = (f"`{name}`", f"`{_default(key)}`", describe_bounds(key), _escaped(key.meaning))
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def describe_changes(values: dict) -> str:
    """Return the merged `values` as YAML, with a comment behind each value that is not the default."""
    lines = []
    for section, keys in KEYS.items():
        lines.append(f"{section}:\n")
        for name, key in keys.items():
            line = "  " + to_yaml({name: values[section][name]})
            changed = values[section][name] != key.default
            lines.append(f"{line.rstrip()}  # default: {_default(key)}\n" if changed else line)
    return "".join(lines)


def _default(key: Key) -> str:
    return key.default if isinstance(key.default, str) and key.default else show(key.default)


def _escaped(text: str) -> str:
    """Return `text` escaped for a cell of a Markdown table."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace(">", "&gt;").replace("_", r"\_")
