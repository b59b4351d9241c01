"""Load a configuration: the defaults, overridden by a task file, overridden by the command line."""

import argparse
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from yacs.config import CfgNode

from config.arguments import report_errors_on_one_line
from config.cnns import PACKAGE
from config.command_line import WHERE, read_override
from config.constraints import check_constraints
from config.default import KEYS, PATH_RULE, default_config
from config.describe import describe_keys
from config.errors import UserError
from config.files.whole import replacing
from config.task_files import Setting, read_settings, to_yaml
from config.values import SPLIT, user_error

RUN_CONFIG = "config.yaml"
PREPARED = "prepared.json"  # lies beside the task file that tools/prepare_data.py writes


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

    The folder of a run stands for its config.yaml, which names the run where it lies now (`_run_settings`).
    `overrides` are `SECTION.KEY=VALUE`; later ones win. Lists become tuples. Raises UserError for a wrong
    file, key, type, choice or range; its one line names the file and line, or the command line.
    """
    settings = [] if path is None else _settings_of(Path(path))
    following = [*overrides[1:], None]
    settings += [read_override(*pair) for pair in zip(overrides, following, strict=False)]
    values = config_as_dict(default_config())
    origins = {}
    for setting in settings:
        is_path = KEYS[setting.section][setting.name].path
        value = os.path.expanduser(setting.value) if is_path else setting.value
        values[setting.section][setting.name] = value
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


def _settings_of(path: Path) -> list[Setting]:
    if (path / RUN_CONFIG).is_file():
        path = path / RUN_CONFIG
    settings = read_settings(os.fspath(path))
    folder = path.parent if path.parent.name not in ("", "..") else path.parent.resolve()
    is_run = (folder / "log.jsonl").is_file() or any(folder.glob("*/state.json"))
    if path.name == RUN_CONFIG and is_run:
        return _run_settings(settings, folder)
    return _prepared_settings(settings, folder) if (folder / PREPARED).is_file() else settings


def _run_settings(settings: list[Setting], folder: Path) -> list[Setting]:
    """Return the settings of the run in `folder`, with every path as it is now (PATH_RULE)."""
    stored = {f"{setting.section}.{setting.name}": setting.value for setting in settings}
    output = [
        stored.get(f"OUTPUT.{name}", KEYS["OUTPUT"][name].default) for name in ("CHECKPOINT_DIR", "SAVE_NAME")
    ]
    then = os.path.normpath(os.path.join(*output))
    now = _paths_now(settings, then, folder, _is_path)
    where = os.fspath(folder / RUN_CONFIG)
    own = {"CHECKPOINT_DIR": os.fspath(folder.parent), "SAVE_NAME": folder.name}
    return now + [Setting("OUTPUT", name, value, where) for name, value in own.items()]


def _prepared_settings(settings: list[Setting], folder: Path) -> list[Setting]:
    """Return the settings of a task file in the data set's own folder, with every path as it is now.

    Whole paths that led into that folder, or beside it, are as before unless the folder was moved.
    """
    folders = [each.value for each in settings if (each.section, each.name) == ("DATASET", "DATA_DIR")]
    then = folders[-1] if folders else ""
    if not os.path.isabs(then) or _is_there(then):
        return settings
    return _paths_now(settings, then, folder, os.path.isabs)


def _paths_now(
    settings: list[Setting], then: str, folder: Path, may_move: Callable[[str], bool]
) -> list[Setting]:
    """Return settings written at `then`, which is `folder` now: paths that may move are as they are now."""
    now = os.path.abspath(folder)
    return [
        replace(each, value=_path_now(each, then, now))
        if KEYS[each.section][each.name].path and may_move(each.value)
        else each
        for each in settings
    ]


def _path_now(setting: Setting, then: str, now: str) -> str:
    """Return the path of a setting, written when its run or data set was at `then`, which is at `now`."""
    path, places = setting.value, [setting.value]
    if os.path.isabs(path):
        if os.path.isabs(then):  # what was moved with the run lies beside it as before
            places.append(os.path.normpath(os.path.join(now, os.path.relpath(path, then))))
    elif KEYS[setting.section][setting.name].path == "DATA_DIR":
        return path
    elif not os.path.isabs(then) and ".." not in Path(then).parts:
        # An older run, whose paths count from the folder in which training was started.
        start = Path(now, *[".."] * len(Path(then).parts))
        places.insert(0, os.path.normpath(start / path))
    found = next((place for place in places if _is_there(place)), path)
    inside = os.path.relpath(found)
    return found if inside.startswith("..") else inside  # short, and as most users type it


def _is_path(value: str) -> bool:
    return bool(value) and not value.startswith(PACKAGE)


def _is_there(path: str) -> bool:
    return bool(glob.glob(glob.escape(path).replace(SPLIT, "*")))


def with_whole_paths(cfg: CfgNode) -> dict[str, dict]:
    """Return `cfg` as `config_as_dict` does, with paths that hold from every working folder.

    A file of the data set that lies in DATASET.DATA_DIR is named as before.
    """
    values = config_as_dict(cfg)
    for section, keys in KEYS.items():
        for name, key in keys.items():
            path = values[section][name]
            if not key.path or not _is_path(path):
                continue
            folder = cfg.DATASET.DATA_DIR if key.path == "DATA_DIR" else ""
            inside = folder and _is_there(os.path.join(folder, path))
            if key.path == "working folder" or (not inside and _is_there(path)):
                values[section][name] = os.path.abspath(path)
    return values


def save_config(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Write `cfg` as YAML that `load_config` reads back; an existing file is replaced atomically.

    Its paths are whole (`with_whole_paths`). Raises UserError if the file cannot be written.
    """
    try:
        with replacing(Path(path)) as draft:
            draft.write_text(to_yaml(with_whole_paths(cfg)), encoding="utf-8")
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
    parser.add_argument("--cfg_file", metavar="F", help="task file (YAML), or the folder of a run")
    parser.epilog = PATH_RULE
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
    return load_config(args.cfg_file, args.overrides)


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
    config = path.parent / RUN_CONFIG
    if (path / RUN_CONFIG).is_file():
        raise user_error(WHERE, f"{named_by}: {folder} is a run; name a checkpoint of it: {path}/best")
    if not config.is_file():
        problem = f"expected a folder in a run, such as out/a/best, got {folder}: there is no {config}"
        raise user_error(WHERE, f"{named_by}: {problem}")
    return load_config(config, [*overrides, f"EVAL.CHECKPOINT_DIR={folder}"])
