"""Show the configuration: every key and its meaning, or the merged values of a task file.

    python tools/show_config.py
    python tools/show_config.py --cfg_file configs/f8k/vsepp.yaml OPTIMIZATION.LR=1e-4

Without arguments the tool prints every key with its default, meaning and choices. With --cfg_file or
KEY=VALUE it prints the merged configuration as YAML, with a comment on each value that differs from its
default.
"""

import argparse

import _init_paths  # noqa: F401
from _command import run

from config.describe import describe_changes, describe_keys, keys_as_markdown
from config.load import add_config_arguments, config_as_dict, config_from_arguments


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print every key as the page docs/configuration.md"
    )
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.markdown:
        print(keys_as_markdown(), end="")
    elif args.cfg_file is None and not args.overrides:
        print(describe_keys(), end="")
    else:
        cfg = config_from_arguments(args, file_needed=False)
        print(describe_changes(config_as_dict(cfg)), end="")


if __name__ == "__main__":
    run(main)
