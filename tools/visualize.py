"""Explain a model's score of a picture and a sentence, region by region and word by word.

    python tools/visualize.py --cfg_file out/scenes_vsrn/config.yaml --image test_000109
    python tools/visualize.py --cfg_file F --image 01234.jpg --text "a red circle and a ring" --region 2

The tool draws the regions that the graph of VSRN listened to, and the part of the similarity that needs a
region, a word, or both. It lists the caption that VSRN generates beside the true ones. For models without a
graph or a caption decoder it shows the rest. The data set must hold region features. PNG files and
attention.html are written into <run>/visualize/<image>/ (or --out).
"""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import folder_name, run, start_runtime
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
    parser.add_argument("--text", help="a sentence about the image (default: the image's own first caption)")
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
    """Explain the score of one image and one sentence: print a summary, and write the drawings."""
    from datasets.build.dual import build_dataset
    from engine.tasks import dual
    from engine.tasks.loading import run_folder, split_name
    from serving.reports.explanation import explain, read_sentence
    from serving.reports.explanation_page import explanation_section, write_explanation
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.reports.region_view import region_view
    from serving.splits.split_searcher import SplitSearcher

    pictures = PictureFolder(image_folder(cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR, split_name(cfg)))
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
        read_sentence(text, trained.words)  # a sentence without words is refused before pictures are encoded
    searcher = SplitSearcher(trained.model, dataset, cfg.EVAL.BATCH_SIZE)
    explanation = explain(searcher, row, regions, text)
    section = explanation_section(explanation, view, notes, top_k, None if region is None else region - 1)
    print("\n".join([*notes, *summary(explanation, list(view.labels), top_k)]))
    note = f"By {trained.describe()}, among the {dataset.num_images} pictures of the split {dataset.name}."
    target = Path(out) if out else run_folder(cfg).path / "visualize" / folder_name(image_id, "image")
    for path in write_explanation(target, section, note):
        print(f"written: {path}")
    return 0


def find_row(cfg: CfgNode, dataset: "RetrievalDataset", image: str) -> int:
    """Return the row of an image in the split.

    Raises UserError with another split that has the image, or else with the nearest names.
    """
    from serving.search.searcher import image_row

    try:
        return image_row(dataset.image_ids, image, f"the {dataset.name} split")
    except UserError as error:
        elsewhere = splits_with(cfg, dataset, image)
        if not elsewhere:
            raise UserError(f"--image: {error}") from error
    raise UserError(
        f"--image: {image!r} is not an image of the {dataset.name} split but of {elsewhere[0]}; "
        f"add EVAL.SPLIT={elsewhere[0]}"
    )


def splits_with(cfg: CfgNode, dataset: "RetrievalDataset", image: str) -> list[str]:
    """Return those of train, dev and test that hold an image; a split that cannot be read is left out."""
    from datasets.build.dual import build_dataset
    from engine.tasks.loading import split_name
    from serving.search.searcher import image_row

    found = []
    for split in ("train", "dev", "test"):
        with contextlib.suppress(UserError):
            other = build_dataset(cfg, split_name(cfg, split), dataset.vocabulary, training=False)
            image_row(other.image_ids, image, split)
            found.append(split)
    return found


def summary(explanation: "Explanation", labels: list[str], top_k: int) -> list[str]:
    """Return an explanation as lines for the terminal."""
    relevance, listening = explanation.relevance, explanation.listening
    width = max(map(len, [*labels, *explanation.sentence.words])) + 2
    lines = [f"{explanation.image_id} with: {explanation.sentence.text}  (similarity {relevance.score:.4f})"]
    if listening is not None:
        received = listening.sum(axis=0)
        lines.append("regions that the graph listened to most, and their share")
        lines += [f"  {labels[row]:{width}}{received[row]:6.1%}" for row in (-received).argsort()[:top_k]]
    lines.append("regions that the sentence rests on most, and what it loses without them")
    for row in (-abs(relevance.region)).argsort(kind="stable")[:top_k]:
        lines.append(f"  {labels[row]:{width}}{relevance.region[row]:+.4f}")
    lines.append("words, what is lost without them, and the region that answers each best")
    for column, word in enumerate(explanation.sentence.words):
        best = relevance.pair[:, column].argmax()
        answer = f"{labels[best]} ({relevance.pair[best, column]:+.4f})"
        lines.append(f"  {word:{width}}{relevance.word[column]:+.4f}  {answer}")
    lines.append("sentences, their similarity, and the rank of the picture for each")
    for caption in explanation.captions:
        lines.append(f"  {caption.score:.4f} {caption.rank:5d}  {caption.origin:10}{caption.text}")
    return lines


if __name__ == "__main__":
    run(main)
