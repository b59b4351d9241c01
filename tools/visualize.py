"""Show what a trained model made of a picture and a sentence, region by region and word by word.

    python tools/visualize.py --cfg_file out/scenes_vsrn/config.yaml --image test_000109
    python tools/visualize.py --cfg_file F --image 01234.jpg --text "a red circle and a ring" --region 2

Draws which regions the graph of VSRN listened to, and what the similarity owes to each region with each word;
puts the caption that VSRN writes beside the true ones. Other models, without a graph or a writer, show the
rest. Needs region features. Writes PNG files and attention.html into <run>/visualize/<image>/ (or --out).
"""

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run, start_runtime
from yacs.config import CfgNode

from config.errors import UserError
from config.load import add_config_arguments, config_from_arguments

if TYPE_CHECKING:
    from datasets.retrieval_dataset import RetrievalDataset
    from serving.reports.explanation import Explanation


def main() -> int:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--image", required=True, metavar="ID", help="an image of the split, by id or file name"
    )
    parser.add_argument("--text", help="a sentence about it (default: its own first caption)")
    parser.add_argument(
        "--region",
        type=int,
        metavar="K",
        help="show what region K takes from others (default: the one listened to most)",
    )
    parser.add_argument("--top_k", type=int, default=5, metavar="K", help="regions to frame (default 5)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the drawings (default: <run>/visualize/<image>)"
    )
    arguments = parser.parse_args()
    if arguments.top_k < 1:
        raise UserError(f"--top_k: expected at least 1, got {arguments.top_k}")
    cfg = config_from_arguments(arguments)
    start_runtime(cfg)
    return visualize(cfg, arguments.image, arguments.text, arguments.region, arguments.top_k, arguments.out)


def visualize(
    cfg: CfgNode, image: str, text: str | None, region: int | None, top_k: int, out: str | None
) -> int:
    """Draw what the model made of one image, and say it on the terminal."""
    from datasets.build.dual import build_dataset
    from engine.tasks import dual
    from engine.tasks.loading import run_folder, split_name
    from serving.reports.explanation import explain, read_sentence
    from serving.reports.explanation_page import attention_section, write_attention
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.reports.region_view import region_view
    from serving.search.searcher import Searcher

    pictures = PictureFolder(image_folder(cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR))
    trained = dual.load(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    row = find_row(cfg, dataset, image)
    image_id, regions = dataset.image_ids[row], dataset.regions(row)
    view, notes = region_view(image_id, regions, pictures)
    if region is not None and not 1 <= region <= len(view.labels):
        raise UserError(
            f"--region: expected 1 to {len(view.labels)}, as {image_id} has regions, got {region}"
        )
    if text is not None:
        read_sentence(text, trained.words)  # refuse what cannot be read before all pictures are encoded
    searcher = Searcher(trained.model, dataset, cfg.EVAL.BATCH_SIZE)
    attention = explain(searcher, row, regions, text)
    section = attention_section(attention, view, notes, top_k, None if region is None else region - 1)
    print("\n".join([*notes, *summary(attention, list(view.labels), top_k)]))
    note = f"By {trained.describe()}, among the {dataset.num_images} pictures of the split {dataset.name}."
    target = Path(out) if out else run_folder(cfg).path / "visualize" / file_name(image_id)
    for path in write_attention(target, section, note):
        print(f"written: {path}")
    return 0


def find_row(cfg: CfgNode, dataset: "RetrievalDataset", image: str) -> int:
    """Return the row of an image; raise UserError with the split that has it, or with the nearest names."""
    from serving.search.searcher import image_row

    try:
        return image_row(dataset, image)
    except UserError:
        elsewhere = splits_with(cfg, dataset, image)
        if not elsewhere:
            raise
    raise UserError(
        f"--image: {image!r} is not an image of the {dataset.name} split but of {elsewhere[0]}; "
        f"add EVAL.SPLIT={elsewhere[0]}"
    )


def splits_with(cfg: CfgNode, dataset: "RetrievalDataset", image: str) -> list[str]:
    """Return which of train, dev and test have an image, as far as they are there."""
    from datasets.build.dual import build_dataset
    from engine.tasks.loading import split_name
    from serving.search.searcher import image_row

    found = []
    for split in ("train", "dev", "test"):
        with contextlib.suppress(UserError):
            image_row(build_dataset(cfg, split_name(cfg, split), dataset.vocabulary, training=False), image)
            found.append(split)
    return found


def summary(attention: "Explanation", labels: list[str], top_k: int) -> list[str]:
    """Return what was seen, as lines for the terminal."""
    relevance, listening = attention.relevance, attention.listening
    width = max(map(len, [*labels, *attention.sentence.words])) + 2
    lines = [f"{attention.image_id} with: {attention.sentence.text}  (similarity {relevance.score:.4f})"]
    if listening is not None:
        received = listening.sum(axis=0)
        lines.append("regions that the graph listened to most, and their share")
        lines += [f"  {labels[row]:{width}}{received[row]:6.1%}" for row in (-received).argsort()[:top_k]]
    lines.append("regions that the sentence rests on most, and what it loses without them")
    for row in (-abs(relevance.region)).argsort(kind="stable")[:top_k]:
        lines.append(f"  {labels[row]:{width}}{relevance.region[row]:+.4f}")
    lines.append("words, what is lost without them, and the region that answers each best")
    for column, word in enumerate(attention.sentence.words):
        best = relevance.pair[:, column].argmax()
        answer = f"{labels[best]} ({relevance.pair[best, column]:+.4f})"
        lines.append(f"  {word:{width}}{relevance.word[column]:+.4f}  {answer}")
    lines.append("sentences, their similarity, and the rank of the picture for each")
    for caption in attention.captions:
        lines.append(f"  {caption.score:.4f} {caption.rank:5d}  {caption.origin:10}{caption.text}")
    return lines


def file_name(image_id: str) -> str:
    """Return an image's id as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", image_id).strip("._") or "image"


if __name__ == "__main__":
    run(main)
