"""Convert anybody's checkpoint into a run folder, ready to be evaluated, searched and trained further.

    python tools/convert_weights.py model_best.pth.tar out/vsepp --vocabulary vocab/coco_precomp_vocab.pkl
    python tools/convert_weights.py checkpoint-0132780/ out/vinvl
    python tools/eval_retrieval.py --cfg_file out/vinvl/config.yaml DATASET.DATA_DIR=data/coco_ir

SRC is a checkpoint of VSE++, SCAN or VSRN (.pth.tar), of VSE's PyTorch port (.pkl), of torchvision's or
Paddle's CNNs (.pth, .pdparams), or the folder of a BERT, an Oscar, a VinVL or a VinVL-Paddle; the content
says which. OUT is a run folder: best/, config.yaml, and conversion.json, which tells what became of each
tensor. KEY=VALUE overrides what the checkpoint says. Parts of a model and other files become files:

    python tools/convert_weights.py resnet152-394f9c45.pth data/resnet152.safetensors   for MODEL.CNN_WEIGHTS
    python tools/convert_weights.py zoo data/resnet50.safetensors --network resnet50    the same, downloaded
    python tools/convert_weights.py out/ucm/best data/resnet18.safetensors              the same, of a run
    python tools/convert_weights.py f30k_precomp_vocab.pkl f30k_vocab.json              for INPUT.VOCAB_FILE
    python tools/convert_weights.py test_captions.pt test_captions.json                  captions of VinVL

    python tools/convert_weights.py out/vsepp model_best.pth.tar --to torch               back, bit for bit

Nothing in a file is run: a file with anything but plain containers and tensors is refused, with the name of
what it holds.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run
from _progress import progress_display

from config.arguments import report_errors_on_one_line
from config.default import KEYS
from config.errors import UserError
from config.files.whole import refuse_existing, writing
from engine.runtime import keep_freed_memory, prepare_runtime

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from engine.conversion.conversion import Conversion, Given

# The conversion brings tokenizers and safetensors, so the functions import it: help comes at once without.


def main() -> int:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("source", metavar="SRC", help="file or folder to convert, or zoo")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder or file to write")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration of the run")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="vocabulary that the model was trained with: pickle or JSON",
    )
    parser.add_argument(
        "--caption_model", type=Path, metavar="FILE", help="VSRN: its caption decoder, which checkpoints lack"
    )
    networks = [name for name in KEYS["MODEL"]["CNN"].choices if name]
    parser.add_argument("--network", choices=networks, default="", help="name of a CNN, if it is not clear")
    parser.add_argument(
        "--reference", type=Path, metavar="F.npz", help="the original's inputs and outputs, to compare with"
    )
    parser.add_argument("--to", choices=("torch",), help="write a run of ours in the original's layout")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.parse_args = parser.parse_intermixed_args
    arguments = parser.parse_args()
    leave_on_sigterm()
    keep_freed_memory()
    refuse_existing(arguments.output, arguments.overwrite, "OUT")
    return convert(arguments)


def convert(arguments: argparse.Namespace) -> int:
    """Do what the command line asks for; return 1 if a converted model computes other than the original."""
    from engine.conversion.back import write_torch
    from engine.conversion.conversion import Given
    from engine.conversion.lists import convert_lists
    from engine.conversion.origins.cnn import download
    from engine.conversion.recognise import holds_cnn, kind_of_content, open_source, recognise
    from engine.conversion.vocabularies import convert_vocabulary, refuse_options
    from engine.runs.checkpoint import cnn_of_checkpoint, is_checkpoint

    source, output = Path(arguments.source), arguments.output
    given = Given(arguments.vocabulary, arguments.caption_model, arguments.network, arguments.overrides)
    if arguments.to:
        print(write_torch(source, output, arguments.overwrite))
        return 0
    if arguments.source == "zoo":
        start_paddle()
        source = download(given.network)
    if source.is_dir() and is_checkpoint(source):
        refuse_folder(output, source)
        start_paddle()
        return write_arrays(output, cnn_of_checkpoint(source), "the CNN of a run")
    content = None if source.is_dir() else open_source(source)
    kind = "weights" if content is None else kind_of_content(content)
    if kind != "weights":
        if arguments.vocabulary:
            refuse_options(content, source)
            raise UserError(
                f"--vocabulary: expected weights with it, got {source}, which holds "
                f"{'a vocabulary' if kind == 'vocabulary' else 'none'}: leave the option out"
            )
        to_json = convert_vocabulary if kind == "vocabulary" else convert_lists
        print(to_json(source, content, output))
        return 0
    if arguments.reference or holds_cnn(content):
        start_paddle()
    conversion = recognise(source, content, given)
    if output.suffix == ".safetensors":
        return write_network(conversion, output)
    return write_model(conversion, given, arguments)


def write_model(conversion: "Conversion", given: "Given", arguments: argparse.Namespace) -> int:
    """Write the run folder, compare it if the user asks for that, and print what became of the tensors."""
    from engine.conversion.rules import numbers_of
    from engine.conversion.run import write_run
    from engine.conversion.sheet import table

    output, compare = arguments.output, None
    if arguments.reference:
        from engine.conversion import reference

        arrays = reference.read_reference(arguments.reference)

        def compare(checkpoint: Path, cfg: "CfgNode") -> dict:
            return reference.compare(checkpoint, cfg, arrays, arguments.reference)

    with progress_display() as show:
        sheet = write_run(conversion, given, output, arguments.overwrite, show, compare)
    print("\n".join(table(sheet)))
    count = sum(numbers_of(row["shape"]) for row in sheet["tensors"])
    print(
        f"{output}: {conversion.origin}, {len(sheet['tensors'])} tensors, {count / 1e6:.2f} million numbers"
    )
    if not sheet.get("reference", {}).get("agrees", True):
        print(f"{output} computes something else than {arguments.reference}: it is not the original's model")
        return 1
    folder = "" if given.sets("DATASET.DATA_DIR") else " DATASET.DATA_DIR=FOLDER"
    print(f"evaluate: python tools/eval_retrieval.py --cfg_file {output / 'config.yaml'}{folder}")
    return 0


def start_paddle() -> None:
    """Prepare for Paddle's import, which only networks of its own and comparisons need."""
    prepare_runtime("cpu", threads=0, seed=0, deterministic=True)


def write_network(conversion: "Conversion", output: Path) -> int:
    """Write a CNN alone as a file for MODEL.CNN_WEIGHTS; raise UserError for another model."""
    from engine.conversion.rules import converted

    prefix = "cnn.network."
    if not conversion.origin.startswith("CNN"):
        raise UserError(
            f"{output}: expected the name of a folder for the run of a {conversion.origin}, got that of a "
            "file; only a CNN's weights alone become a file"
        )
    path = conversion.source.path
    tensors = {rule.ours: converted(rule, conversion.tensors, path) for rule in conversion.rules}
    arrays = {name.removeprefix(prefix): tensor.load() for name, tensor in tensors.items()}
    return write_arrays(output, arrays, conversion.origin[5:-1])


def write_arrays(output: Path, arrays: dict, what: str) -> int:
    """Write arrays by name as safetensors, and say so."""
    from engine.weights.tensor_files import save_safetensors

    with writing(output) as draft:
        save_safetensors(draft, arrays)
    print(f"{output}: {what}, {sum(array.size for array in arrays.values()) / 1e6:.2f} million numbers")
    return 0


def refuse_folder(output: Path, source: Path) -> None:
    """Raise UserError unless the CNN of a run is to be written as a file."""
    if output.suffix != ".safetensors":
        raise UserError(
            f"{source}: a run of ours: expected OUT to end with .safetensors, for its CNN alone, or "
            f"--to torch, for the original's layout, got {output}"
        )


if __name__ == "__main__":
    run(main)
