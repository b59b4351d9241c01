"""Write the embeddings of pictures or sentences, with their ids, into a file.

    python tools/encode.py --cfg_file out/mine --out images.npz                     # images of EVAL.SPLIT
    python tools/encode.py --cfg_file out/mine --out captions.npz --captions        # its captions
    python tools/encode.py --cfg_file out/mine --out photos.npz --gallery photos    # any gallery
    python tools/encode.py --cfg_file out/mine --out queries.npz --queries queries.txt

The file is a .npz with the arrays vectors [N,D] (float32), ids [N], texts [N] (of sentences), checkpoint (the
SHA-256 of the weights) and measure. The id of a caption is its image's, that of a query its line.
search_retrieval.py --gallery takes such a file of pictures, and does not encode them again.
"""

import argparse
from pathlib import Path

import _init_paths  # noqa: F401
from _command import add_gallery_arguments, blaming, read_queries, run, start_runtime
from _progress import progress_display
from yacs.config import CfgNode

from config.errors import UserError
from config.load import add_config_arguments, config_from_arguments


def main() -> int:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--out", metavar="F.npz", type=Path, required=True, help="file to write")
    what = parser.add_mutually_exclusive_group()
    add_gallery_arguments(parser, what)
    what.add_argument("--captions", action="store_true", help="encode the captions of EVAL.SPLIT")
    what.add_argument("--queries", metavar="F", type=Path, help="encode the sentences of a file, one a line")
    arguments = parser.parse_args()
    if arguments.out.suffix != ".npz":
        raise UserError(f"--out: expected a name that ends with .npz, got {arguments.out}")
    cfg = config_from_arguments(arguments)
    queries = read_queries(arguments.queries) if arguments.queries else None
    start_runtime(cfg)
    return encode(cfg, arguments, queries)


def encode(cfg: CfgNode, arguments: argparse.Namespace, queries: list[str] | None) -> int:
    """Encode what the command line names, and write the file."""
    from datasets.build.dual import build_dataset
    from engine.evaluation.dual import encode_captions
    from engine.tasks import dual
    from engine.tasks.galleries import GalleryReader, encoder_of
    from engine.tasks.loading import split_name
    from serving.search.embeddings import Embeddings, write_embeddings

    trained = dual.load(cfg)
    encoder = encoder_of(cfg, trained)
    texts: list[str] = []
    with progress_display() as show:
        if queries is not None:
            with blaming("--queries"):
                vectors = encoder.encode_text(queries, show)
            ids, texts, unit = [str(line) for line in range(1, len(queries) + 1)], queries, "sentences"
        elif arguments.gallery:
            with blaming("--gallery"):
                gallery = GalleryReader(cfg, encoder, arguments.backbone).open(arguments.gallery, show)
                vectors, ids = encoder.encode_gallery(gallery, show), gallery.image_ids
            unit = "pictures"
        else:
            dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
            if arguments.captions:
                encoded, sentence = encode_captions(trained.model, dataset, cfg.EVAL.BATCH_SIZE, show)
                vectors, texts, unit = encoded[sentence], dataset.captions, "captions"
                ids = [dataset.image_ids[image] for image in dataset.caption_image]
            else:
                vectors, ids, unit = encoder.encode_gallery(dataset, show), dataset.image_ids, "pictures"
    found = Embeddings(vectors, list(ids), texts, trained.checkpoint["sha256"], encoder.measure)
    write_embeddings(arguments.out, found)
    print(f"written: {arguments.out}, {len(vectors)} {unit} x {vectors.shape[1]}, by {trained.describe()}")
    return 0


if __name__ == "__main__":
    run(main)
