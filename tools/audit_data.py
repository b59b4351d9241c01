"""Find what splits share: equal and near-equal pictures and sentences; recount a result without them.

    python tools/audit_data.py --cfg_file configs/rsicd/vsepp.yaml DATASET.DATA_DIR=path/to/rsicd_precomp
    python tools/audit_data.py --cfg_file out/a/config.yaml --result out/a/eval_test
    python tools/audit_data.py --cfg_file F --images path/to/pictures --page audit.html --out audit.json

Pictures are compared by their files and by a perceptual hash; where there are none (DATASET.IMAGE_DIR, or
--images), features are compared, and near-equal ones are those whose centred means have a cosine of at least
--close. Sentences are equal letter for letter, or near-equal: equal but for case, punctuation and spaces.
With --result, R@K of that result is recounted without the queries that a leak or a duplicate concerns, from
its ranks.npz, with intervals; the gallery stays as it was.
tools/check_data.py tells what must be mended before training; this tool tells what a number rests on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run
from _progress import progress_display

from config.errors import UserError
from config.files.whole import write_whole
from config.load import add_config_arguments, config_from_arguments

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from engine.inspection.audit import Audit, Recount
    from serving.reports.pictures import PictureFolder


def main() -> int:
    """Parse the command line and audit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--result", type=Path, metavar="FOLDER", help="a result to recount")
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: DATASET.IMAGE_DIR)")
    parser.add_argument(
        "--close", type=float, metavar="C", help="cosine of near-equal features, below 1 (default 0.95)"
    )
    parser.add_argument("--page", type=Path, metavar="F.html", help="also write a page with the pictures")
    parser.add_argument("--out", type=Path, metavar="F.json", help="also write what was found as JSON")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=123, metavar="S", help="of the resamples (default 123)")
    arguments = parser.parse_args()
    if arguments.close is not None and not 0 < arguments.close < 1:
        raise UserError(f"--close: expected a number between 0 and 1, got {arguments.close:g}")
    if arguments.resamples < 1:
        raise UserError(f"--resamples: expected at least 1, got {arguments.resamples}")
    return audit_data(config_from_arguments(arguments), arguments)


def audit_data(cfg: "CfgNode", arguments: argparse.Namespace) -> int:
    """Print what the splits share and, with --result, the result without it."""
    from datasets.build.audited import CLOSE, open_audited
    from engine.certificates.comparison import read_result
    from engine.inspection.audit import audit, recounts
    from serving.reports.inspection.audit_page import write_audit

    result = read_result(arguments.result) if arguments.result else None
    pictures = {}

    def read(split: str) -> Callable[[str], bytes | None]:
        pictures[split] = pictures_of(cfg, split, arguments.images)

        def read_picture(image_id: str) -> bytes | None:
            path = pictures[split].find(image_id)
            return path.read_bytes() if path else None

        return read_picture

    with progress_display() as show:
        splits = open_audited(cfg, read, show)
        found = audit(splits, arguments.close or CLOSE, show)
    print("\n".join(lines_of(found)))
    counted: list[Recount] = []
    if result:
        split = result.content["protocol"]["split"]
        counted, nothing_left = recounts(found, result.ranks, split, arguments.resamples, arguments.seed)
        print("\n".join(recount_lines(counted, nothing_left, arguments)))
    if arguments.out:
        content = as_dict(found, counted, arguments)
        write_whole(arguments.out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {arguments.out}")
    if arguments.page:
        print(f"written: {write_audit(arguments.page, found, counted, pictures)}")
    return 0


def pictures_of(cfg: "CfgNode", split: str, images: str | None) -> "PictureFolder":
    """Return the pictures of a split; an empty folder of them where there are none."""
    from serving.reports.pictures import PictureFolder, image_folder

    places = ("", images) if images else (cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR)
    return PictureFolder(image_folder(*places, split))


def lines_of(found: "Audit") -> list[str]:
    """Return what was found as a table."""
    lines = [f"pictures: {found.method}", ""]
    lines += [
        f"{split.name}: {len(split.image_ids):,} images, {len(split.captions):,} captions"
        for split in found.splits
    ]
    lines += ["", f"{'':<36}{'equal':>12}{'near-equal':>12}"]
    for kind, shared in (("pictures", found.pictures), ("sentences", found.sentences)):
        for each in shared:
            where = f"within {each.first}" if each.first == each.second else f"{each.first} and {each.second}"
            lines.append(f"{kind + ' ' + where:<36}{len(each.equal):>12,}{len(each.alike):>12,}")
    lines += ["", "pictures: pairs; sentences: captions of the second split (within: of another image too)"]
    return lines


def recount_lines(
    counted: "list[Recount]", nothing_left: list[str], arguments: argparse.Namespace
) -> list[str]:
    """Return the metrics without what was found, as lines."""
    from engine.certificates.sides import describe
    from engine.certificates.stored import title_of

    lines = [
        "",
        f"{arguments.result}, 95% intervals: bootstrap, {arguments.resamples:,} resamples from seed "
        f"{arguments.seed}; queries are left out, the gallery stays",
    ]
    names = [name for each in counted[:1] for name in each.metrics if not name.endswith(("medr", "meanr"))]
    width = max([len(title_of(name)) for name in names], default=0) + 2
    for each in counted:
        left = ", ".join(
            f"{count:,} {prefix.rstrip('_') or 'queries'}" for prefix, count in each.left.items()
        )
        what = f"without {each.without}" if each.without else "all queries"
        lines += ["", f"{what} ({left}):"]
        lines += [f"  {title_of(name):<{width}}{describe(each.metrics[name])}" for name in names]
    lines += [f"\nwithout {name}: no query is left" for name in nothing_left]
    return lines


def as_dict(found: "Audit", counted: "list[Recount]", arguments: argparse.Namespace) -> dict:
    """Return what was found, with names, as JSON can hold it."""
    splits = found.by_name
    pictures = [
        {
            "first": each.first,
            "second": each.second,
            **{
                kind: [
                    [splits[each.first].image_ids[one], splits[each.second].image_ids[other]]
                    for one, other in getattr(each, kind).tolist()
                ]
                for kind in ("equal", "alike")
            },
        }
        for each in found.pictures
    ]
    sentences = [
        {
            "first": each.first,
            "second": each.second,
            **{
                kind: sorted({splits[each.second].captions[place] for place in getattr(each, kind).tolist()})
                for kind in ("equal", "alike")
            },
            "captions": {"equal": len(each.equal), "alike": len(each.alike)},
        }
        for each in found.sentences
    ]
    recounted = [
        {
            "without": each.without,
            "left": {prefix.rstrip("_"): count for prefix, count in each.left.items()},
            "metrics": {name: {"value": one.value, **one.as_dict()} for name, one in each.metrics.items()},
        }
        for each in counted
    ]
    return {
        "method": found.method,
        "splits": {
            split.name: {"images": len(split.image_ids), "captions": len(split.captions)}
            for split in found.splits
        },
        "pictures": pictures,
        "sentences": sentences,
        "result": str(arguments.result) if arguments.result else None,
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "recounts": recounted,
    }


if __name__ == "__main__":
    run(main)
