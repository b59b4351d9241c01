"""Show what stands behind a result: its worst misses, where two results disagree, and pairs to judge.

    python tools/inspect_results.py misses out/scenes_vsrn/eval_test
    python tools/inspect_results.py disagreements out/a/eval_test out/b/eval_test --out disagreements.html
    python tools/inspect_results.py desk out/a/eval_test --count 200

Each writes one page with its pictures embedded, from the result.json, ranks.npz and lists.npz that
tools/eval_retrieval.py wrote (EVAL.LIST_LENGTH items a query).

misses         the queries of the highest ranks, with the right item, what beat it, and both scores; for
               models of regions also where each word looked, from the checkpoint and the data (--maps)
disagreements  the queries on which two results differ most in rank, both ways, and what each put first
desk           pairs that the model puts before what the file calls right, to be judged with the keys y and n;
               the page saves a file of judgements, which tools/judge_pairs.py reads
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run, start_runtime
from _result_pictures import pictures_of_result

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.families import FAMILIES

if TYPE_CHECKING:
    from engine.inspection.cases import Inspected
    from serving.reports.inspection.cases_page import Look
    from serving.reports.pictures import PictureFolder

MAPS = 2
COUNTS = {"misses": 20, "disagreements": 15, "desk": 100}


def main() -> int:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", choices=list(COUNTS), help="what to show")
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="FOLDER", help="folder of a result; two for disagreements"
    )
    parser.add_argument(
        "--out", type=Path, metavar="F.html", help="the page to write (default: <page>.html in the folder)"
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="queries of each kind, or pairs of the desk "
        f"(default {', '.join(f'{name} {count}' for name, count in COUNTS.items())})",
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: DATASET.IMAGE_DIR)")
    parser.add_argument(
        "--maps",
        type=int,
        metavar="N",
        help=f"misses of each direction that show where words looked (default {MAPS} for models of regions, "
        "0 for others; needs features of regions)",
    )
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    wanted = 2 if arguments.page == "disagreements" else 1
    if len(arguments.results) != wanted:
        raise UserError(
            f"{arguments.page}: expected {wanted} folder{'s' * (wanted > 1)} of results, got "
            f"{len(arguments.results)}"
        )
    if arguments.count is not None and arguments.count < 1:
        raise UserError(f"--count: expected at least 1, got {arguments.count}")
    if arguments.maps is not None and arguments.page != "misses":
        raise UserError(f"--maps: expected with misses, got it with {arguments.page}")
    return inspect(arguments)


def inspect(arguments: argparse.Namespace) -> int:
    """Write the page that the command line asks for."""
    from engine.inspection.cases import open_both, open_result
    from engine.inspection.judgements import doubted_pairs
    from serving.reports.inspection.cases_page import write_disagreements, write_misses
    from serving.reports.inspection.desk_page import write_desk

    results, page = arguments.results, arguments.page
    found = open_both(*results) if page == "disagreements" else (open_result(results[0]),)
    pictures = pictures_of(found[0], arguments.images)
    count = arguments.count or COUNTS[page]
    out = arguments.out or found[0].stored.folder / f"{page}.html"
    if page == "disagreements":
        path = write_disagreements(out, *found, pictures, count)
    elif page == "misses":
        [result] = found
        family = result.stored.content.get("checkpoint", {}).get("model", "")
        sees_regions = family in FAMILIES and FAMILIES[family].sees_regions
        maps = arguments.maps if arguments.maps is not None else MAPS * sees_regions
        look = explainer(result, pictures) if maps else None
        path = write_misses(out, result, pictures, count, look, maps)
    else:
        [result] = found
        pairs = doubted_pairs(result.lists)
        print(f"{len(pairs):,} pairs stand before what the file calls right; the page asks about {count:,}")
        path = write_desk(out, result, pairs[:count], len(pairs), pictures)
    print(f"written: {path}")
    return 0


def pictures_of(result: "Inspected", images: str | None) -> "PictureFolder":
    """Return the pictures of a result; say where they were expected if there are none."""
    from serving.reports.pictures import PictureFolder

    if images:
        return pictures_of_result(result, images)
    try:
        pictures = pictures_of_result(result)
    except UserError as error:
        print(f"note: {error}")
        pictures = PictureFolder(None)
    if not any(pictures.find(image_id) for image_id in result.lists.image_ids[:50]):
        print("no pictures to show: name their folder with --images path/to/pictures")
    return pictures


def explainer(result: "Inspected", pictures: "PictureFolder") -> "Look":
    """Return what explains the score of an image and a caption; it loads the checkpoint that was measured."""
    from config.load import config_of_checkpoint

    content = result.stored.content
    checkpoint, config = content.get("checkpoint", {}), content["config"]
    if "folder" not in checkpoint or not Path(checkpoint["folder"]).is_dir():
        where = checkpoint.get("folder", "an ensemble")
        raise UserError(f"--maps: expected the checkpoint that was measured, got {where}: give --maps 0")
    keys = ("DATASET", "DATA_DIR"), ("EVAL", "SPLIT"), ("DATASET", "RELEVANCE"), ("EVAL", "FOLDS")
    same = [f"{section}.{key}={config[section][key]}" for section, key in keys]
    cfg = config_of_checkpoint(checkpoint["folder"], same, "--maps")
    start_runtime(cfg)
    from datasets.build.dual import build_dataset
    from engine.tasks import dual
    from engine.tasks.loading import split_name
    from serving.reports.explanation import explain
    from serving.reports.explanation_page import ExplanationSection, explanation_section
    from serving.reports.region_view import region_view
    from serving.splits.split_searcher import SplitSearcher

    trained = dual.load(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    if (dataset.image_ids, dataset.captions) != (result.lists.image_ids, result.lists.captions):
        raise UserError(
            f"--maps: {cfg.DATASET.DATA_DIR} holds other images or captions than {result.stored.folder} was "
            "measured on: give --maps 0"
        )
    searcher = SplitSearcher(trained.model, dataset, cfg.EVAL.BATCH_SIZE)

    def look(image: int, caption: int) -> ExplanationSection | None:
        regions = dataset.regions(image)
        view, notes = region_view(dataset.image_ids[image], regions, pictures)
        seen = explain(searcher, image, regions, dataset.captions[caption])
        return explanation_section(seen, view, notes, top=5)

    return look


if __name__ == "__main__":
    run(main)
