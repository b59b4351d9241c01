"""Write a page about one or several trained runs: recalls, word order, curves, best hits, worst misses.

    python tools/make_report.py out/scenes_vsepp
    python tools/make_report.py out/demo/vsepp out/demo/vse --out out/demo/report.html

Several runs are compared: the best number of each column is marked, and all runs answer the same sentences.
Best hits and worst misses are the first run's. A run that was evaluated with EVAL.RERANK_DIR gets a section
on the re-ranking. For image encoders the page shows pictures that find their class, and some that do not.
"""

import argparse
from collections import Counter
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run, start_runtime
from yacs.config import CfgNode

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.families import FAMILIES
from config.load import load_config


def main() -> int:
    """Parse the command line and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders: those with a config.yaml")
    parser.add_argument(
        "--out", metavar="F.html", help="the page to write (default: <first run>/report.html)"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: DATASET.IMAGE_DIR)")
    parser.add_argument("--title", help="heading of the page")
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    folders = list(dict.fromkeys(Path(folder) for folder in arguments.runs))
    for folder in folders:
        if not (folder / "config.yaml").is_file():
            raise UserError(
                f"{folder} is not a run: expected config.yaml in it; train one with tools/train_retrieval.py"
            )
    out = Path(arguments.out) if arguments.out else folders[0] / "report.html"
    if out.is_dir():
        raise UserError(
            f"cannot write {out}: it is a folder; name a file with --out, such as {out}/report.html"
        )
    configs = [
        load_config(folder / "config.yaml", [f"EVAL.CHECKPOINT_DIR={folder}/best"]) for folder in folders
    ]
    start_runtime(configs[0])
    print(f"written: {make_report(folders, configs, out, arguments.title, arguments.images)}")
    return 0


def make_report(
    folders: list[Path], configs: list[CfgNode], out: Path, title: str | None, images: str | None
) -> Path:
    """Evaluate the best checkpoint of every run on its EVAL.SPLIT, write the page, and return its path."""
    from engine.tasks.kinds import kind_of
    from engine.tasks.loading import split_name
    from serving.reports.image_report import ImageRun, write_image_report
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.reports.report import RunReport, refuse_others, write_report

    kind, names, runs = one_kind(configs), display_names(folders), []
    for folder, cfg in zip(folders, configs, strict=True):
        print(f"measuring {folder}", flush=True)
        reported = kind_of(cfg).reports(cfg)
        if kind == "image":
            runs.append(ImageRun.of(names[folder], reported))
        else:
            runs.append(RunReport.of(names[folder], reported, cfg.EVAL.BATCH_SIZE))
            refuse_others(runs[0], runs[-1])
    if kind == "image":
        return write_image_report(out, title or "Image retrieval", runs)
    data = configs[0].DATASET
    places = ("", images) if images else (data.DATA_DIR, data.IMAGE_DIR)
    pictures = PictureFolder(image_folder(*places, split_name(configs[0])))
    if not any(pictures.find(image_id) for image_id in runs[0].searcher.dataset.image_ids):
        print("no pictures to show: name their folder with --images path/to/pictures")
    return write_report(out, title or "Image-text retrieval", runs, pictures)


def one_kind(configs: list[CfgNode]) -> str:
    """Return the kind of model of all runs; raise UserError if their kinds differ."""
    first = configs[0].MODEL.NAME
    for cfg in configs[1:]:
        if FAMILIES[cfg.MODEL.NAME].kind != FAMILIES[first].kind:
            raise UserError(
                f"expected runs of one kind of model in a report, got {first} and {cfg.MODEL.NAME}: write a "
                "report on each"
            )
    return FAMILIES[first].kind


def display_names(folders: list[Path]) -> dict[Path, str]:
    """Return the name of each run on the page: the name of its folder, or the path if two names are equal."""
    own = {folder: folder.resolve().name for folder in folders}
    alike = Counter(own.values())
    return {folder: name if alike[name] == 1 else str(folder) for folder, name in own.items()}


if __name__ == "__main__":
    run(main)
