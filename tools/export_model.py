"""Export a trained model as a bundle, which encodes and scores without Paddle.

    python tools/export_model.py --cfg_file F --out bundles/vsepp
    python tools/export_model.py --cfg_file F --out bundles/vsepp_int8 --precision int8 --max_loss 1

A bundle is a folder with the graphs (ONNX), the vocabulary and model.json, which says all that a program
needs to run them. Of this repository, config/, datasets/ and serving/ read it. The graphs are compared with
the model on the dev split first: in float32 no rank may change, and in other precisions the mean recall may
fall by at most --max_loss points. Otherwise nothing is written.
"""

import argparse
import shlex
from functools import partial
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run, start_runtime

from config.errors import UserError
from config.files.whole import refuse_existing
from config.load import add_config_arguments, config_from_arguments


def main() -> int:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the bundle")
    parser.add_argument(
        "--format",
        default="onnx",
        choices=("onnx", "paddle"),
        help="of the graphs: for ONNX Runtime (default), or for Paddle Inference (vse, vsepp, cnn; float32)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "float16", "int8"),
        help="of the stored weights (default float32); int8 also computes in integers",
    )
    parser.add_argument(
        "--max_loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="how many points of mean recall float16 and int8 may lose on dev (default 0.5)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it is there")
    arguments = parser.parse_args()
    if not 0 <= arguments.max_loss <= 100:
        raise UserError(f"--max_loss: expected points from 0 to 100, got {arguments.max_loss:g}")
    if arguments.format == "paddle" and arguments.precision != "float32":
        raise UserError(f"--precision: expected float32 with --format paddle, got {arguments.precision}")
    cfg = config_from_arguments(arguments)
    refuse_existing(arguments.out, arguments.overwrite, "--out")
    start_runtime(cfg)
    try:
        from engine.export.export import export_model
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise UserError(
            f"the export needs the package {error.name}: pip install -r requirements-export.txt"
        ) from error
    from engine.export.inference import InferenceGraph
    from engine.export.proof import describe_proof
    from serving.bundle.bundle import Bundle

    open_bundle = Bundle.open
    if arguments.format == "paddle":
        open_bundle = partial(Bundle.open, load=InferenceGraph)
    description, model = export_model(
        cfg, arguments.out, arguments.format, arguments.precision, arguments.max_loss, open_bundle
    )
    for line in describe_proof(description["proof"]):
        print(line)
    size = sum(each["bytes"] for each in description["files"].values()) / 1e6
    print(f"written: {arguments.out}, {model} for {arguments.format} in {arguments.precision}, {size:.1f} MB")
    image = description["image"]
    if image and arguments.format == "onnx":
        takes_photos = image["reads"] == "pixels" or description["extraction"]
        building = "build_index.py --gallery FEATURES --out INDEX"
        tool = "serve_retrieval.py --photos PHOTOS" if takes_photos else building
        print(f"next: python tools/{tool} --bundle {shlex.quote(str(arguments.out))}")
    return 0


if __name__ == "__main__":
    run(main)
