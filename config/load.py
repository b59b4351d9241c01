"""Load a configuration: the defaults, overridden by a task file, overridden by the command line."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from yacs.config import CfgNode

from config.command_line import WHERE, read_override, report_errors_on_one_line
from config.constraints import check_constraints
from config.default import default_config
from config.describe import describe_keys
from config.errors import UserError
from config.files import replacing
from config.task_files import read_settings, to_yaml
from config.values import user_error


class FrozenConfig(CfgNode):
    """A configuration that refuses every change (yacs' own `freeze` permits `cfg["KEY"] = value`)."""

    def _refuse_change(self, *_: object) -> NoReturn:
        raise TypeError("expected no change, the configuration is frozen: pass overrides to load_config")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse_change
    update = setdefault = pop = popitem = clear = defrost = _refuse_change
    merge_from_file = merge_from_list = merge_from_other_cfg = set_new_allowed = _refuse_change

    def is_frozen(self) -> bool:
        return True

    def __reduce__(self) -> tuple:
        # By default, copy and pickle fill an empty dict item by item, which a frozen one refuses.
        return FrozenConfig, ({name: self[name] for name in self},)


def load_config(path: str | os.PathLike | None, overrides: Sequence[str] = ()) -> FrozenConfig:
    """Return the defaults, overridden by the task file at `path` (None: no file) and then by `overrides`.

    `overrides` are `SECTION.KEY=VALUE`; later ones win. Lists become tuples. Raises UserError for a wrong
    file, key, type, choice or range; its one line names the file and line, or the command line.
    """
    settings = read_settings(os.fspath(path)) if path is not None else []
    following = [*overrides[1:], None]
    settings += [read_override(*pair) for pair in zip(overrides, following, strict=False)]
    values = config_as_dict(default_config())
    origins = {}
    for setting in settings:
        values[setting.section][setting.name] = setting.value
        origins[f"{setting.section}.{setting.name}"] = setting.where
    check_constraints(values, origins)
    return FrozenConfig({section: _without_lists(keys) for section, keys in values.items()})


def _without_lists(keys: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in keys.items()}


def config_as_dict(cfg: CfgNode) -> dict[str, dict]:
    """Return a mutable copy of `cfg` in plain dicts, lists and scalars, as JSON can hold them."""
    return {
        section: {
            name: list(value) if isinstance(value, tuple | list) else value for name, value in keys.items()
        }
        for section, keys in cfg.items()
    }


def save_config(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Write `cfg` as YAML that `load_config` reads back exactly; an existing file is replaced atomically.

    Raises UserError if the file cannot be written.
    """
    try:
        with replacing(Path(path)) as draft:
            draft.write_text(to_yaml(config_as_dict(cfg)), encoding="utf-8")
    except OSError as error:
        raise user_error(os.fspath(path), f"cannot write the configuration: {error.strerror}") from None


class _HelpConfig(argparse.Action):
    """Print every key and exit, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(describe_keys(), end="")
        parser.exit()


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg_file F`, `--help-config` and any number of `KEY=VALUE` to a tool's `parser`.

    The parser then raises UserError for wrong arguments, and accepts options between the `KEY=VALUE`. A tool
    must add no other positional argument.
    """
    parser.add_argument("--cfg_file", metavar="F", help="task file (YAML), or the config.yaml of a run")
    parser.add_argument("--help-config", action=_HelpConfig, nargs=0, help="describe every key and exit")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="override a key, such as OPTIMIZATION.LR=1e-4 (KEY= is empty text, lists are '[a,b]')",
    )
    report_errors_on_one_line(parser)
    parser.parse_args = parser.parse_intermixed_args


def config_from_arguments(args: argparse.Namespace, file_needed: bool = True) -> FrozenConfig:
    """Return the configuration that the parsed arguments `args` ask for.

    Their parser must have been given to `add_config_arguments`. Raises UserError as `load_config` does, and
    if `--cfg_file` is missing although `file_needed`.
    """
    if args.cfg_file is None and file_needed:
        files = [word for word in args.overrides if word.endswith((".yaml", ".yml")) and "=" not in word]
        example = files[0] if files else "configs/f8k/vsepp.yaml"
        raise UserError(f"{WHERE}: expected --cfg_file F, such as --cfg_file {example}, got none")
    return load_config(args.cfg_file, [*_own_folder(args.cfg_file), *args.overrides])


def configs_of_checkpoints(folders: Sequence[str], overrides: Sequence[str] = ()) -> list[FrozenConfig]:
    """Return, for each checkpoint folder, the configuration of its run, overridden by `overrides`.

    Raises UserError as `config_of_checkpoint` does, and if `overrides` name a checkpoint too.
    """
    if any(override.startswith("EVAL.CHECKPOINT_DIR=") for override in overrides):
        raise user_error(WHERE, "expected --checkpoints or EVAL.CHECKPOINT_DIR, got both; leave one out")
    return [config_of_checkpoint(folder, overrides) for folder in folders]


def config_of_checkpoint(
    folder: str, overrides: Sequence[str] = (), named_by: str = "--checkpoints"
) -> FrozenConfig:
    """Return the configuration of the run that a checkpoint folder belongs to, overridden by `overrides`.

    `named_by` is the option or key that named the folder, for messages. Raises UserError as `load_config`
    does, and for a folder outside a run.
    """
    path = Path(folder) if Path(folder).name not in ("", "..") else Path(folder).resolve()
    config = path.parent / "config.yaml"
    if (path / "config.yaml").is_file():
        raise user_error(WHERE, f"{named_by}: {folder} is a run; name a checkpoint of it: {path}/best")
    if not config.is_file():
        problem = f"expected a folder in a run, such as out/a/best, got {folder}: there is no {config}"
        raise user_error(WHERE, f"{named_by}: {problem}")
    return load_config(config, [*_own_folder(config), *overrides, f"EVAL.CHECKPOINT_DIR={folder}"])


def _own_folder(path: str | os.PathLike | None) -> list[str]:
    """Return overrides that make the config.yaml of a run name the folder in which it lies now.

    The folder that it stores may be relative to where training was started, and the run may have been moved.
    Other files need no overrides.
    """
    folder = Path(path or "").parent
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if path is None or Path(path).name != "config.yaml" or not (folder / "log.jsonl").is_file():
        return []
    return [f"OUTPUT.CHECKPOINT_DIR={folder.parent}", f"OUTPUT.SAVE_NAME={folder.name}"]
