"""Search with a trained model: pictures for a sentence, sentences and pictures for a picture.

    python tools/search_retrieval.py --cfg_file out/mine --text "a red circle left of a blue square"
    python tools/search_retrieval.py --cfg_file out/mine --image 01234.png --top_k 10
    python tools/search_retrieval.py --cfg_file out/mine --gallery photos --text "a dog" "two dogs"
    python tools/search_retrieval.py --cfg_file out/mine --gallery mine.h5 --image ~/holidays/pond.jpg
    python tools/search_retrieval.py --cfg_file out/mine --gallery mine.h5 --queries queries.txt --json
    python tools/search_retrieval.py --cfg_file F --text "a dog on a sofa" EVAL.RERANK_DIR=out/oscar/best
    python tools/search_retrieval.py --index out/photos.index --text "a dog on a sofa"  (more with --help)

The images are those of EVAL.SPLIT, or of --gallery: a feature file, a folder with one, a folder with a .npy
for each image, photos, or what tools/encode.py wrote. A picture of --image that is in no gallery is encoded
by the network that the feature file records, or by --backbone.
The tool prints the best hits with their scores; --json prints a JSON line for each hit instead. For one query
it writes a contact sheet (PNG) and a page (HTML) into <run>/search/<query>/ (or --out); for several it writes
only with --out, into DIR/<query>/. EVAL.RERANK_DIR lets a cross encoder re-rank the best EVAL.RERANK_K first.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _command import add_gallery_arguments, blaming, folder_name, read_queries, start_runtime
from _progress import progress_display
from yacs.config import CfgNode

from config.command_line import split_overrides
from config.errors import UserError, cut
from config.load import add_config_arguments, config_from_arguments

if TYPE_CHECKING:
    from datasets.retrieval_dataset import RetrievalDataset
    from engine.tasks.galleries import GalleryReader
    from engine.tasks.task import Trained
    from serving.reports.pictures import PictureFolder
    from serving.splits.reranker import Reranker
    from serving.search.embeddings import Embeddings
    from serving.search.searcher import CaptionTexts, Encoder, Hit, Searcher


@dataclass
class Answer:
    """The hits of one query: `query` is a sentence, or a picture as the user named it.

    `title` is what people read of it. `picture` is the query's own picture, if any: an id or a path.
    """

    query: str
    title: str
    images: list["Hit"]
    captions: list["Hit"] = field(default_factory=list)
    picture: str | None = None


@dataclass
class Search:
    """All that a query needs: `pictures` shows hits, and `reader` encodes pictures of no gallery."""

    searcher: "Searcher"
    reader: "GalleryReader"
    trained: "Trained"
    pictures: "PictureFolder"
    reranker: "Reranker | None" = None
    second: str = ""  # a phrase about the re-ranker
    among: str = ""  # a phrase about the pictures of a split, for the heading of hits


def main() -> int:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", nargs="+", metavar="TEXT", help="sentences; each finds pictures")
    query.add_argument("--queries", metavar="F", type=Path, help="file of sentences, one a line")
    query.add_argument(
        "--image",
        metavar="FILE_OR_ID",
        help="an image of the gallery, by id or file name, any picture, or a .npy file with an image's "
        "features; finds sentences and pictures",
    )
    add_gallery_arguments(parser, parser)
    parser.add_argument(
        "--captions",
        metavar="FILE",
        type=Path,
        help="sentences about the gallery, which pictures find: a line each of id, tab and sentence; .jsonl; "
        "any table that tools/prepare_data.py reads, such as .csv; or .npz of tools/encode.py",
    )
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="search an index in place of a run; --index INDEX --help tells its options",
    )
    parser.add_argument("--top_k", type=int, default=5, metavar="K", help="hits to show (default 5)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each hit")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for hits.png and hits.html (default: <run>/search/<query>)"
    )
    arguments = parser.parse_args()
    if not (arguments.cfg_file or arguments.overrides):
        raise UserError(
            "expected what to search: --cfg_file RUN for a trained run, or --index INDEX for what "
            "tools/build_index.py wrote"
        )
    if arguments.top_k < 1:
        raise UserError(f"--top_k: expected at least 1, got {arguments.top_k}")
    texts, overrides = split_overrides(arguments.text)
    arguments.overrides = [*overrides, *arguments.overrides]
    cfg = config_from_arguments(arguments)
    if arguments.gallery and cfg.EVAL.RERANK_DIR:
        raise UserError(
            "--gallery: expected EVAL.SPLIT with EVAL.RERANK_DIR, since that model reads the data set of its "
            "own run: leave out one of them"
        )
    if arguments.captions and not arguments.gallery:
        raise UserError("--captions: expected with --gallery; a split has captions of its own")
    texts = read_queries(arguments.queries) if arguments.queries else texts
    start_runtime(cfg)
    return search(cfg, arguments, texts)


def search(cfg: CfgNode, arguments: argparse.Namespace, texts: list[str]) -> int:
    """Answer all queries: print the hits, and write a contact sheet and a page for each that asks for it."""
    from engine.tasks.loading import run_folder

    opened = open_gallery(cfg, arguments) if arguments.gallery else open_split(cfg, arguments.backbone)
    unknown = ""
    if arguments.image is not None:
        answers = [answer_image(cfg, opened, arguments.image, arguments.top_k)]
    else:
        option = "--queries" if arguments.queries else "--text"
        answers = answer_texts(cfg, opened, texts, arguments.top_k, option)
        unknown = unknown_words(opened, texts)
    if unknown:
        say(arguments, f"not in the model's vocabulary: {unknown}")
    for answer in answers:
        print_json(answer) if arguments.json else print_answer(answer, opened.among)
    if arguments.out or (len(answers) == 1 and not arguments.json):
        if not any(opened.pictures.find(hit.name) for answer in answers for hit in answer.images):
            where = f" in {opened.pictures.folder}" if opened.pictures.folder else ""
            say(
                arguments,
                f"no pictures to show{where}: name their folder with DATASET.IMAGE_DIR=path/to/pictures",
            )
        target = Path(arguments.out) if arguments.out else run_folder(cfg).path / "search"
        names = distinct_names(answers)
        for name, answer in zip(names, answers, strict=True):
            alone = arguments.out and len(answers) == 1
            for path in write_answer(opened, answer, target if alone else target / name):
                say(arguments, f"written: {path}")
    return 0


def say(arguments: argparse.Namespace, line: str) -> None:
    """Print a line about the search: with --json on stderr, since each line of stdout is a hit."""
    print(line, file=sys.stderr if arguments.json else sys.stdout)


def open_split(cfg: CfgNode, backbone: str | None) -> Search:
    """Return the search of EVAL.SPLIT, with the re-ranker of EVAL.RERANK_DIR, if any."""
    from datasets.build.dual import build_dataset
    from engine.tasks import dual
    from engine.tasks.galleries import GalleryReader, encoder_of
    from engine.tasks.loading import split_name
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.splits.split_searcher import SplitSearcher

    pictures = PictureFolder(image_folder(cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR, split_name(cfg)))
    trained = dual.load(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    reader = GalleryReader(cfg, encoder_of(cfg, trained), backbone)
    reader.use(dataset.features)
    reranker, second = build_reranker(cfg, dataset)
    searcher = SplitSearcher(trained.model, dataset, cfg.EVAL.BATCH_SIZE)
    among = f" (of {len(searcher.image_ids):,}, split {split_name(cfg)})"
    return Search(searcher, reader, trained, pictures, reranker, second, among)


def open_gallery(cfg: CfgNode, arguments: argparse.Namespace) -> Search:
    """Return the search of --gallery; photos in it are also those that pages show."""
    from engine.tasks import dual
    from engine.tasks.galleries import GalleryReader, encoder_of
    from engine.tasks.loading import split_name
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.search.searcher import Searcher

    path = Path(arguments.gallery)
    trained = dual.load(cfg)
    encoder = encoder_of(cfg, trained)
    reader = GalleryReader(cfg, encoder, arguments.backbone, lambda line: say(arguments, line))
    with blaming("--gallery"), progress_display() as show:
        if path.suffix == ".npz":
            stored = own_embeddings(path, trained)
            if stored.texts:
                raise UserError(
                    f"{path}: embeddings of sentences: name those of pictures, and these with --captions"
                )
            images, ids = stored.vectors, stored.ids
        else:
            gallery = reader.open(path, show)
            images, ids = encoder.encode_gallery(gallery, show), gallery.image_ids
    captions = None
    if arguments.captions:
        with blaming("--captions"):
            captions = read_captions(arguments.captions, encoder, trained)
    data = cfg.DATASET
    own = path if path.is_dir() else image_folder(data.DATA_DIR, data.IMAGE_DIR, split_name(cfg))
    return Search(Searcher(encoder, images, ids, str(path), captions), reader, trained, PictureFolder(own))


def own_embeddings(path: Path, trained: "Trained") -> "Embeddings":
    """Return the embeddings in a file; raise UserError where other weights made them."""
    from serving.search.embeddings import read_embeddings

    stored = read_embeddings(path)
    if stored.checkpoint != trained.checkpoint["sha256"]:
        raise UserError(
            f"{path}: embeddings of other weights than {trained.checkpoint['folder']}: write them again with "
            "tools/encode.py"
        )
    return stored


def read_captions(path: Path, encoder: "Encoder", trained: "Trained") -> "CaptionTexts":
    """Return the distinct sentences of a file with their embeddings, and the ids that each stands by."""
    from serving.index.sources import read_sentences
    from serving.search.searcher import CaptionTexts

    if path.suffix == ".npz":
        stored = own_embeddings(path, trained)
        pairs = list(zip(stored.ids, stored.texts or [None] * len(stored.ids), strict=True))
    else:
        pairs = [(line.id, line.caption) for line in read_sentences(path)]
    if not all(text for _, text in pairs):
        raise UserError(f"{path}: expected a sentence with every id")
    first = {text: row for row, (_, text) in reversed(list(enumerate(pairs)))}
    texts = sorted(first, key=first.get)
    rows = [first[text] for text in texts]
    embeddings = stored.vectors[rows] if path.suffix == ".npz" else encoder.encode_text(texts)
    own: dict[str, set[str]] = {}
    for name, text in pairs:
        own.setdefault(name, set()).add(text)
    return CaptionTexts(embeddings, texts, own)


def build_reranker(cfg: CfgNode, dataset: "RetrievalDataset") -> tuple["Reranker | None", str]:
    """Return the re-ranker of EVAL.RERANK_DIR for hits in `dataset`, and a phrase for the page's note.

    Both are empty (None and "") if EVAL.RERANK_DIR is.
    """
    from engine.tasks.reranking import load_reranker
    from serving.splits.reranker import Reranker

    if not cfg.EVAL.RERANK_DIR:
        return None, ""
    cross = load_reranker(cfg, dataset)
    reranker = Reranker(cross.model, cross.dataset, cfg.EVAL.BATCH_TOKENS, cfg.EVAL.RERANK_DUAL_WEIGHT)
    return reranker, f", its best {cfg.EVAL.RERANK_K} in the order of {cross.checkpoint['folder']}"


def answer_texts(cfg: CfgNode, opened: Search, texts: list[str], top_k: int, option: str) -> list[Answer]:
    """Return the pictures that each sentence finds; `option` names the sentences in messages."""
    count = max(top_k, cfg.EVAL.RERANK_K) if opened.reranker else top_k
    with blaming(option):
        found = opened.searcher.images_for_texts(texts, count)
    if opened.reranker:
        found = [
            opened.reranker.images_for_text(text, hits)[:top_k]
            for text, hits in zip(texts, found, strict=True)
        ]
    return [Answer(text, text, hits) for text, hits in zip(texts, found, strict=True)]


def unknown_words(opened: Search, texts: list[str]) -> str:
    """Return the words of all sentences that the model does not know: five of them, and a count."""
    encoder = opened.searcher.encoder
    words = list(dict.fromkeys(word for text in texts for word in encoder.unknown_words(text)))
    return cut(", ".join(words[:5]), 200) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def answer_image(cfg: CfgNode, opened: Search, name: str, top_k: int) -> Answer:
    """Return the sentences and the pictures that a picture finds."""
    from engine.tasks.galleries import is_picture

    searcher, reranker = opened.searcher, opened.reranker
    count = max(top_k, cfg.EVAL.RERANK_K) if reranker else top_k
    with blaming("--image"):
        if is_elsewhere(opened, name):
            embedding, image_id = opened.reader.encode_file(name), None
        else:
            try:
                embedding, image_id = searcher.embedding_of(name)
            except UserError as error:
                missing = (is_picture(name) or "/" in name) and not os.path.exists(name)
                nowhere = f"; {name}: no such file" if missing else ""
                raise UserError(f"{error}, or the path of a picture{nowhere}") from error
        captions = searcher.captions_for_image(embedding, count, image_id)
        if reranker:
            captions = reranker.captions_for_image(image_id, captions)[:top_k]
    images = searcher.images_for_image(embedding, top_k, leave_out=image_id)
    elsewhere = os.path.abspath(name)
    picture = image_id or (elsewhere if opened.pictures.find(elsewhere) and is_picture(name) else None)
    return Answer(name, image_id or Path(name).name, images, captions, picture)


def is_elsewhere(opened: Search, name: str) -> bool:
    """Tell whether `name` is a file, but not of a picture of the gallery: its embedding is not known yet."""
    path = Path(name)
    if name in opened.searcher.image_ids:
        return False
    if path.suffix == ".npy":
        return True
    if not path.is_file():
        return False
    ids = (name, path.name, path.stem)
    own = next((opened.pictures.find(each) for each in ids if each in opened.searcher.image_ids), None)
    return own is None or not own.samefile(path)


def print_answer(answer: Answer, among: str) -> None:
    """Print the hits of a query for people; `among` says how many pictures of which split were searched."""
    print_hits(f"captions for: {answer.title}", answer.captions)
    print_hits(f"pictures for: {answer.title}{among}", answer.images)


def print_hits(heading: str, hits: list["Hit"]) -> None:
    """Print the hits with their scores under a heading, or nothing if there are none."""
    if hits:
        print(heading)
    for number, hit in enumerate(hits, start=1):
        before = f"  (before: {hit.before})" if hit.before else ""
        print(f"{number:3d}  {hit.score:.4f}  {hit.name}{'  (its own)' if hit.right else ''}{before}")


def print_json(answer: Answer) -> None:
    """Print each hit of a query as a line of JSON."""
    for kind, hits in (("caption", answer.captions), ("picture", answer.images)):
        for place, hit in enumerate(hits, start=1):
            line = {"query": answer.query, "kind": kind, "place": place, "id": hit.name, "score": hit.score}
            if hit.right:
                line["own"] = True
            if hit.before:
                line["before"] = hit.before
            print(json.dumps(line, ensure_ascii=False))


def distinct_names(answers: list[Answer]) -> list[str]:
    """Return the name of a folder for each answer; equal names get the number of the query."""
    names = []
    for number, answer in enumerate(answers, start=1):
        name = folder_name(answer.title.lower()[:60], "query")
        names.append(f"{name}_{number}" if name in names else name)
    return names


def write_answer(opened: Search, answer: Answer, folder: Path) -> tuple[Path, ...]:
    """Write the contact sheet and the page of a query, and return their paths."""
    from serving.reports.pages import write_search_page
    from serving.reports.pictures import ContactSheetTile, contact_sheet

    tiles = [ContactSheetTile(hit.name, f"{hit.score:.3f}") for hit in answer.images]
    sheet = contact_sheet(answer.title, tiles, opened.pictures, query=answer.picture)
    note = (
        f"The best of {len(opened.searcher.image_ids)} pictures of {opened.searcher.name}, by "
        f"{opened.trained.describe()}{opened.second}."
    )
    parts = answer.picture, answer.images, answer.captions
    return write_search_page(folder, answer.title, note, *parts, opened.pictures, sheet)
