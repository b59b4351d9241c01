"""Convert the pickled files of Oscar and VinVL to safetensors and JSON, without torch.

    python tools/convert_oscar.py checkpoint-0132780/ data/vinvl/model
    python tools/convert_oscar.py train_captions.pt data/vinvl/train_captions.json
    python tools/convert_oscar.py minival_caption_indexs_top20.pt data/vinvl/minival_caption_indexs_top20.json

INPUT is the folder of a BERT or an Oscar, with config.json, vocab.txt and pytorch_model.bin (of VinVL-Paddle:
paddle_model.bin), or a .pt file, a dict from image keys to lists in JSON. A folder becomes the folder OUTPUT
with model.safetensors, config.json and vocab.txt; a .pt file becomes the JSON file OUTPUT, image key -> list.

Nothing in a file is run: a file with anything but plain containers and tensors is refused, with the name of
what it holds.
"""

import argparse
import json
from pathlib import Path

import _init_paths  # noqa: F401
from engine.weights.bert_folder import convert_folder
from _command import leave_on_sigterm, run
from engine.weights.plain_pickle import read_torch_file

from config.command_line import report_errors_on_one_line
from config.errors import UserError
from config.files import refuse_existing, write_whole


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("input", metavar="INPUT", type=Path, help="folder of a model, or .pt file of lists")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder, or .json file, to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    arguments = parser.parse_args()
    leave_on_sigterm()
    refuse_existing(arguments.output, arguments.overwrite)
    if arguments.input.is_dir():
        print(convert_folder(arguments.input, arguments.output, arguments.overwrite))
    else:
        print(convert_lists(arguments.input, arguments.output))


def convert_lists(source: Path, output: Path) -> str:
    """Write the lists by image key in a .pt file as JSON; return a line that describes the file.

    Raises UserError for a file that holds anything else, with the key.
    """
    content = read_torch_file(source)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{source}: expected a dict from image keys to lists, or, for a model, its folder")
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
        except ValueError as error:
            raise UserError(f"{source}: key {key!r}: not JSON: {error}") from error
    if not isinstance(key, int | str) or not isinstance(entries, list):
        raise UserError(f"{source}: key {key!r}: expected a list in JSON, got {str(text)[:40]!r}")
    return entries


if __name__ == "__main__":
    run(main)
