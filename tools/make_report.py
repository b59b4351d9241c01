"""Write a page about one or several trained runs: recalls, word order, curves, best hits, worst misses.

    python tools/make_report.py out/scenes_vsepp
    python tools/make_report.py out/demo/vsepp out/demo/vse --out out/demo/report.html

Several runs are compared: each number with the best marked, and what each finds for the same sentences. Best
hits and worst misses are the first run's. A run that was evaluated with EVAL.RERANK_DIR gets a section on it.
Of image encoders it shows which pictures find their class, and which do not.
"""

import argparse
from collections import Counter
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run, start_runtime
from yacs.config import CfgNode

from config.command_line import report_errors_on_one_line
from config.errors import UserError
from config.families import IMAGE_ENCODERS
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
    if any(cfg.MODEL.NAME in IMAGE_ENCODERS for cfg in configs):
        print(f"written: {make_image_report(folders, configs, out, arguments.title or 'Image retrieval')}")
        return 0
    title = arguments.title or "Image-text retrieval"
    print(f"written: {make_report(folders, configs, out, title, arguments.images)}")
    return 0


def make_report(
    folders: list[Path], configs: list[CfgNode], out: Path, title: str, images: str | None
) -> Path:
    """Measure the best checkpoint of every run on its EVAL.SPLIT and write the page."""
    from datasets.build.dual import build_dataset
    from engine.tasks.loading import evaluate_split, load_trained, measure_swapped, split_name
    from engine.tasks.cross_evaluation import refuse_cross_encoder
    from engine.runs.checkpoint import checkpoint_hash
    from engine.evaluation.result import read_reranked
    from engine.runs.run_folder import read_log
    from serving.reports.pictures import PictureFolder, image_folder
    from serving.reports.report import RunReport, refuse_others, write_report
    from serving.search.searcher import Searcher

    data, split = configs[0].DATASET, split_name(configs[0])
    places = ("", images) if images else (data.DATA_DIR, data.IMAGE_DIR)
    pictures = PictureFolder(image_folder(*places, split))
    names = display_names(folders)
    reports = []
    for cfg in configs:
        refuse_cross_encoder(cfg)
    for folder, cfg in zip(folders, configs, strict=True):
        print(f"measuring {folder}", flush=True)
        model, vocabulary, state, _ = load_trained(cfg)
        dataset = build_dataset(cfg, split_name(cfg), vocabulary, training=False)
        result = evaluate_split(cfg, model, dataset)
        measured = folder / f"eval_{cfg.EVAL.SPLIT}" / "result.json"
        report = RunReport(
            name=names[folder],
            family=state["model"],
            searcher=Searcher(model, vocabulary, dataset, cfg.EVAL.BATCH_SIZE),
            result=result,
            log=read_log(folder / "log.jsonl"),
            swapped=measure_swapped(cfg, model, vocabulary, dataset).get("swapped", {}),
            rerank=read_reranked(measured, checkpoint_hash(state), result.protocol),
        )
        reports.append(report)
        refuse_others(reports[0], report)
    if not any(pictures.find(image_id) for image_id in reports[0].searcher.dataset.image_ids):
        print("no pictures to show: name their folder with --images path/to/pictures")
    return write_report(out, title, reports, pictures)


def make_image_report(folders: list[Path], configs: list[CfgNode], out: Path, title: str) -> Path:
    """Measure the best checkpoint of every image encoder on its EVAL.SPLIT and write the page."""
    from datasets.build.image import build_image_dataset
    from engine.tasks.loading import split_name
    from engine.tasks.image import evaluate_loaded, load_image_encoder
    from engine.runs.run_folder import read_log
    from serving.reports.image_report import ImageRun, write_image_report

    others = [cfg.MODEL.NAME for cfg in configs if cfg.MODEL.NAME not in IMAGE_ENCODERS]
    if others:
        raise UserError(f"expected image encoders alone in their report, got {others[0]}: write one on each")
    names, runs = display_names(folders), []
    for folder, cfg in zip(folders, configs, strict=True):
        print(f"measuring {folder}", flush=True)
        model = load_image_encoder(cfg)[0]
        dataset = build_image_dataset(cfg, split_name(cfg), training=False)
        gallery = build_image_dataset(cfg, cfg.EVAL.GALLERY, training=False) if cfg.EVAL.GALLERY else None
        result = evaluate_loaded(cfg, model, dataset, gallery)
        parameters = sum(parameter.size for parameter in model.parameters())
        log = read_log(folder / "log.jsonl")
        runs.append(ImageRun(names[folder], parameters, result, dataset, gallery or dataset, log))
    return write_image_report(out, title, runs)


def display_names(folders: list[Path]) -> dict[Path, str]:
    """Return what to call each run: the folder's own name, or its path where two have the same."""
    own = {folder: folder.resolve().name for folder in folders}
    alike = Counter(own.values())
    return {folder: name if alike[name] == 1 else str(folder) for folder, name in own.items()}


if __name__ == "__main__":
    run(main)
