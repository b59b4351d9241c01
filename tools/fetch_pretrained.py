"""Make the folder of a pretrained BERT for training: vocab.txt, config.json, model.safetensors.

    python tools/fetch_pretrained.py bert-base-uncased data/bert-base-uncased
    python tools/fetch_pretrained.py downloads/bert-base-uncased data/bert-base-uncased

SOURCE is a name that PaddleNLP knows (PaddleNLP downloads the files and keeps them), or a local folder in the
layout of PaddleNLP or of Hugging Face: config.json and vocab.txt beside model_state.pdparams,
model.safetensors or pytorch_model.bin. A local folder needs no network and no PaddleNLP, which cannot be
installed on Python 3.13.

OUTPUT holds the weights under the names of the original BERT, without the pretraining heads. Nothing in a
file is run.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import _init_paths
from engine.weights.bert_folder import (
    CONFIG_FILE,
    MODEL_FILE,
    VOCABULARY_FILE,
    convert_folder,
)
from _command import leave_on_sigterm, run

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import refuse_existing

CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)


def main() -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("source", metavar="SOURCE", help="name of a BERT in PaddleNLP, or a local folder")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    arguments = parser.parse_args()
    leave_on_sigterm()
    refuse_existing(arguments.output, arguments.overwrite)
    if Path(arguments.source).is_dir():
        print(convert_folder(Path(arguments.source), arguments.output, arguments.overwrite))
        return
    with tempfile.TemporaryDirectory() as folder:
        download(arguments.source, Path(folder))
        print(convert_folder(Path(folder), arguments.output, arguments.overwrite))


def download(name: str, folder: Path) -> None:
    """Put the three files of the BERT `name` into `folder`; PaddleNLP downloads and caches them.

    PaddleNLP does not load the weights, because it would unpickle them. Raises UserError without PaddleNLP,
    for an unknown name, and if the download fails.
    """
    # PaddleNLP imports Hugging Face's `datasets`, and must not find the repository's.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _init_paths.ROOT]
    os.environ["OMP_NUM_THREADS"] = "1"  # Paddle's import warns of any other number
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from paddlenlp.transformers import BertConfig, BertModel, BertTokenizer
            from paddlenlp.utils.download import resolve_file_path
            from paddlenlp.utils.log import logger
    except ImportError as error:
        missing = "is not installed" if error.name == "paddlenlp" else f"cannot be imported ({error})"
        raise UserError(
            f"{name}: no such folder, and PaddleNLP, which knows names, {missing}: pip install -r "
            "requirements.txt with a Python below 3.13, or put vocab.txt, config.json and model.safetensors "
            "into a folder and name that"
        ) from error
    logger.set_level("ERROR")
    weights = BertModel.pretrained_resource_files_map["model_state"].get(name)
    words = BertTokenizer.pretrained_resource_files_map["vocab_file"].get(name)
    try:
        config = BertConfig.from_pretrained(name).to_dict()
        found = resolve_file_path(name, [weights] if weights else [MODEL_FILE, "model_state.pdparams"])
        vocabulary = resolve_file_path(name, [words or VOCABULARY_FILE])
        if not found or not vocabulary:
            raise OSError("it lacks weights or a vocabulary")
    except Exception as error:  # whatever the network, the hub and its libraries raise
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise UserError(
            f"{name}: no such folder, and PaddleNLP cannot bring it: {reason}; check the name and the "
            "network, or name a local folder"
        ) from error
    (folder / CONFIG_FILE).write_text(json.dumps({key: config[key] for key in CONFIG_KEYS if key in config}))
    shutil.copy(vocabulary, folder / VOCABULARY_FILE)
    (folder / (MODEL_FILE if found.endswith(".safetensors") else "model_state.pdparams")).symlink_to(
        Path(found).resolve()
    )


if __name__ == "__main__":
    run(main)
