"""What a converter takes, and what it returns."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.default import KEYS
from config.errors import UserError, cut
from config.values import check_value
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.conversion.rules import Rule
from engine.weights.state_dicts import Tensors
from engine.weights.stored import StoredTensor


@dataclass(frozen=True)
class Given:
    """What the user gives beside the checkpoint.

    `vocabulary` and `caption_model` are files, `network` the name of a CNN, `overrides` are KEY=VALUE.
    """

    vocabulary: Path | None = None
    caption_model: Path | None = None
    network: str = ""
    overrides: Sequence[str] = ()

    def sets(self, key: str) -> bool:
        """Tell whether KEY=VALUE sets `key`."""
        return any(override.startswith(f"{key}=") for override in self.overrides)


@dataclass(frozen=True)
class Source:
    """A checkpoint: its file, its tensors by name, the options stored in it, and its other plain entries.

    The encoders of a dual encoder have the prefixes `img.` and `txt.`, a caption decoder `cap.`.
    """

    path: Path
    tensors: Tensors
    options: dict = field(default_factory=dict)
    entries: dict = field(default_factory=dict)
    prefix: str = ""


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that was recognised: how its tensors become ours, and the configuration that goes with it.

    `tensors` are the original's, of which `left_out` have no place here, with the values of the small ones.
    `untrained` are the first parts of the names of layers that the original lacks. `settings` are KEY=VALUE.
    """

    origin: str
    source: Source
    rules: list[Rule]
    tensors: Tensors
    settings: list[str]
    words: Vocabulary | WordPiece | None
    left_out: dict[str, object] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_options(source: Source, found: dict[str, object]) -> None:
    """Raise UserError where a stored option contradicts what the tensors say; absent options do not."""
    for name, value in found.items():
        given = source.options.get(name)
        if given is not None and type(given) in (int, float, bool, str) and given != value:
            raise UserError(
                f"{source.path}: its options say {name}={given!r}, but its tensors {value!r}: "
                "is it whole, and of one model?"
            )


def stored_settings(source: Source, keys: dict[str, str]) -> list[str]:
    """Return KEY=VALUE for each of `keys`, an option's name to our key, whose stored value our key admits.

    These settings matter to further training alone, and an original may mean something else by a value, such
    as a clipping of 0 for none: such values are left to our defaults.
    """
    settings = []
    for name, full in keys.items():
        section, key = full.split(".")
        value = source.options.get(name)
        with contextlib.suppress(UserError):
            checked = check_value(full, KEYS[section][key], value, str(source.path))
            text = cut(checked) if isinstance(checked, str) else json.dumps(checked)
            settings.append(f"{full}={text}")
    return settings


def without_counters(tensors: Tensors) -> tuple[Tensors, dict[str, object]]:
    """Return the tensors without batch norms' counters of batches, and these counters' values."""
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    return (
        {name: tensor for name, tensor in tensors.items() if name not in counters},
        {name: _value(tensors[name]) for name in counters},
    )


def _value(tensor: StoredTensor) -> object:
    return tensor.read().reshape(-1).tolist()[0] if tensor.shape in ((), (1,)) else None
