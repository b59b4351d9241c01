"""Search a split with a trained model: pictures for a sentence, sentences and pictures for a picture.

    python tools/search_retrieval.py --cfg_file F --text "a red circle left of a blue square"
    python tools/search_retrieval.py --cfg_file F --image 01234.png --top_k 10
    python tools/search_retrieval.py --cfg_file F --text "a dog on a sofa" EVAL.RERANK_DIR=out/oscar/best
    python tools/search_retrieval.py --index out/photos.index --text "a dog on a sofa"  (more with --help)

The tool prints the best hits with their scores and writes a contact sheet (PNG) and a page (HTML) into
<run>/search/<query>/ (or --out). With EVAL.RERANK_DIR a cross encoder re-ranks the best EVAL.RERANK_K first.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import folder_name, run, start_runtime

if __name__ == "__main__" and any(word.partition("=")[0] == "--index" for word in sys.argv[1:]):
    import _search_index

    run(_search_index.main)  # it needs neither Paddle nor a configuration

from yacs.config import CfgNode

from config.errors import UserError
from config.load import add_config_arguments, config_from_arguments

if TYPE_CHECKING:
    from datasets.retrieval_dataset import RetrievalDataset
    from serving.search.reranker import Reranker
    from serving.search.searcher import Hit


def main() -> int:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", help="a sentence; finds pictures")
    query.add_argument(
        "--image",
        metavar="FILE_OR_ID",
        help="an image of the split, by id or file name, or a .npy file with an image's features; finds "
        "sentences and pictures",
    )
    parser.add_argument("--top_k", type=int, default=5, metavar="K", help="hits to show (default 5)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for hits.png and hits.html (default: <run>/search/<query>)"
    )
    arguments = parser.parse_args()
    if arguments.top_k < 1:
        raise UserError(f"--top_k: expected at least 1, got {arguments.top_k}")
    cfg = config_from_arguments(arguments)
    start_runtime(cfg)
    return search(cfg, arguments.text, arguments.image, arguments.top_k, arguments.out)


def search(cfg: CfgNode, text: str | None, image: str | None, top_k: int, out: str | None) -> int:
    """Answer one query, a sentence or an image: print the hits, and write a contact sheet and a page."""
    from datasets.build.dual import build_dataset
    from engine.tasks import dual
    from engine.tasks.loading import run_folder, split_name
    from serving.reports.pages import write_search_page
    from serving.reports.pictures import PictureFolder, ContactSheetTile, contact_sheet, image_folder
    from serving.search.searcher import Searcher

    pictures = PictureFolder(image_folder(cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR, split_name(cfg)))
    trained = dual.load(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    reranker, second = build_reranker(cfg, dataset)
    searcher = Searcher(trained.model, dataset, cfg.EVAL.BATCH_SIZE)
    count = max(top_k, cfg.EVAL.RERANK_K) if reranker else top_k
    captions = []
    if text is not None:
        title, shown = text, None
        images = searcher.images_for_text(text, count)
        if reranker:
            images = reranker.images_for_text(text, images)[:top_k]
        unknown = searcher.unknown_words(text)
        if unknown:
            print(f"not in the model's vocabulary: {', '.join(unknown)}")
    else:
        embedding, shown = searcher.embed_image(image)
        title = shown or Path(image).name
        captions = searcher.captions_for_image(embedding, count, shown)
        if reranker:
            captions = reranker.captions_for_image(shown, captions)[:top_k]
        images = searcher.images_for_image(embedding, top_k, leave_out=shown)
    print_hits(f"captions for: {title}", captions)
    print_hits(f"pictures for: {title}", images)
    if not any(pictures.find(hit.name) for hit in images):
        where = f" in {pictures.folder}" if pictures.folder else ""
        print(f"no pictures to show{where}: name their folder with DATASET.IMAGE_DIR=path/to/pictures")
    target = Path(out) if out else run_folder(cfg).path / "search" / folder_name(title.lower()[:60], "query")
    tiles = [ContactSheetTile(hit.name, f"{hit.score:.3f}") for hit in images]
    sheet = contact_sheet(title, tiles, pictures, query=shown)
    note = (
        f"The best of {dataset.num_images} pictures of the split {dataset.name}, by "
        f"{trained.describe()}{second}."
    )
    for path in write_search_page(target, title, note, shown, images, captions, pictures, sheet):
        print(f"written: {path}")
    return 0


def build_reranker(cfg: CfgNode, dataset: "RetrievalDataset") -> tuple["Reranker | None", str]:
    """Return the re-ranker of EVAL.RERANK_DIR for hits in `dataset`, and a phrase for the page's note.

    Both are empty (None and "") if EVAL.RERANK_DIR is.
    """
    from engine.tasks.reranking import load_reranker
    from serving.search.reranker import Reranker

    if not cfg.EVAL.RERANK_DIR:
        return None, ""
    cross = load_reranker(cfg, dataset)
    reranker = Reranker(cross.model, cross.dataset, cfg.EVAL.BATCH_TOKENS, cfg.EVAL.RERANK_DUAL_WEIGHT)
    return reranker, f", its best {cfg.EVAL.RERANK_K} in the order of {cross.checkpoint['folder']}"


def print_hits(heading: str, hits: list["Hit"]) -> None:
    """Print the hits with their scores under a heading, or nothing if there are none."""
    if hits:
        print(heading)
    for number, hit in enumerate(hits, start=1):
        before = f"  (before: {hit.before})" if hit.before else ""
        print(f"{number:3d}  {hit.score:.4f}  {hit.name}{'  (its own)' if hit.right else ''}{before}")


if __name__ == "__main__":
    run(main)
