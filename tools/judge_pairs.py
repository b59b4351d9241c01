"""Judge pairs that a model believes and the file denies; write extended positives and recount the result.

    python tools/judge_pairs.py out/a/eval_test                                  asks in the terminal: y, n, q
    python tools/judge_pairs.py out/a/eval_test --judgements judgements.json     takes what the desk saved
    python tools/judge_pairs.py out/a/eval_test --judgements one.json two.json --out judged

The pairs are those of `tools/inspect_results.py desk`: an image and a sentence that the model puts before
what the file of captions calls right. Two people who answer differently leave a pair as it was. The tool
writes

    <split>_judgements.json         what was answered in the terminal; the next call goes on from there
    <split>_image_to_caption.json   the right pairs with the judged ones, in the form of ECCV Caption;
    <split>_caption_to_image.json   DATASET.RELEVANCE reads the first, to evaluate, and to mask in training
    <split>_recount.json            R@K, mAP@R and R-precision before and after, with intervals

Only pairs that this model believes were judged, so the new numbers favour it over models whose pairs nobody
judged: judge the pairs of all models that you compare.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run
from _result_pictures import pictures_of_result

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole

if TYPE_CHECKING:
    from datasets.relevance import Relevance
    from engine.inspection.cases import Inspected
    from engine.inspection.judgements import DoubtedPair, Judgement

ANSWERS = {"y": True, "yes": True, "n": False, "no": False}


def main() -> int:
    """Parse the command line, judge, write and recount."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, metavar="FOLDER", help="folder of the result that was judged")
    parser.add_argument(
        "--judgements",
        nargs="+",
        type=Path,
        metavar="F.json",
        help="files of judgements; then nothing is asked",
    )
    parser.add_argument(
        "--count", type=int, default=100, metavar="N", help="pairs to ask about (default 100)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: <FOLDER>/judged)")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--seed", type=int, default=123, metavar="S", help="of the resamples (default 123)")
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    for name, least in (("count", 0), ("resamples", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}: expected at least {least}, got {getattr(arguments, name)}")
    return judge(arguments)


def judge(arguments: argparse.Namespace) -> int:
    """Take judgements from files, or from the terminal, and write what follows from them."""
    from engine.inspection.cases import open_result
    from engine.inspection.judgements import (
        doubted_pairs,
        extended,
        read_judgements,
        settled,
        write_judgements,
        write_positives,
    )

    result = open_result(arguments.result)
    lists = result.lists
    if lists.relevance.rule.startswith("sentence"):
        raise UserError(
            f"{arguments.result}: measured with DATASET.RELEVANCE=sentence, in which equal captions are one "
            "without ids of their own: evaluate with DATASET.RELEVANCE=id"
        )
    out = arguments.out or result.stored.folder / "judged"
    split = result.stored.content["protocol"]["split"]
    file = out / f"{split}_judgements.json"
    written = []
    if arguments.judgements:
        judgements = [each for path in arguments.judgements for each in read_judgements(path, lists)]
    else:
        judgements = read_judgements(file, lists) if file.is_file() else []
        answered = {(each.image, each.sentence) for each in judgements}
        pairs = [
            pair
            for pair in doubted_pairs(lists)
            if (lists.image_ids[pair.image], lists.captions[pair.caption]) not in answered
        ]
        print(f"{len(pairs):,} pairs stand before what the file calls right and are not judged")
        judgements += ask(result, pairs[: arguments.count])
        write_judgements(file, judgements)
        written.append(file)
    kept, contested = settled(judgements)
    right = sum(each.right for each in kept)
    print(f"{len(kept):,} pairs judged: {right:,} right, {len(kept) - right:,} not")
    if contested:
        print(f"{contested:,} pairs were judged both ways, and are left as they were")
    relevance = extended(lists, kept)
    written += write_positives(out, split, lists, relevance)
    lines, content = recount(result, relevance, arguments.resamples, arguments.seed)
    content |= {"judged": len(kept), "right": right, "contested": contested, "result": str(arguments.result)}
    content["added_pairs"] = len(relevance.images) - len(lists.relevance.images)
    written.append(out / f"{split}_recount.json")
    write_whole(written[-1], json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print("\n".join([*lines, *(f"written: {path}" for path in written)]))
    return 0


def ask(result: "Inspected", pairs: list["DoubtedPair"]) -> list["Judgement"]:
    """Ask about each pair in the terminal until there are no more, or q is typed."""
    from engine.inspection.judgements import Judgement

    lists, found, pictures = result.lists, [], None
    with contextlib.suppress(UserError):  # a folder of pictures that is not there: names are shown
        pictures = pictures_of_result(result)
    for number, pair in enumerate(pairs, 1):
        image, sentence = lists.image_ids[pair.image], lists.captions[pair.caption]
        own, _ = lists.right("i2t", pair.image)
        path = pictures.find(image) if pictures else None
        print(f"\n{number} of {len(pairs)}: picture {path or image}")
        print(
            "\n".join(f"   the file says: {text}" for text in dict.fromkeys(lists.captions[c] for c in own))
        )
        print(f"   the model says: {sentence}")
        answer = ""
        while answer not in (*ANSWERS, "q"):
            try:
                answer = input("   does that describe the picture? [y/n/q] ").strip().lower()
            except (EOFError, KeyboardInterrupt):  # what was answered before is kept
                answer = "q"
        if answer == "q":
            print()
            break
        found.append(Judgement(image, lists.caption_ids[pair.caption], sentence, ANSWERS[answer]))
    return found


def recount(result: "Inspected", relevance: "Relevance", resamples: int, seed: int) -> tuple[list[str], dict]:
    """Return a table of the metrics before and after, and the same as JSON."""
    from engine.certificates.sides import certify, describe
    from engine.certificates.stored import title_of
    from engine.inspection.recounted import recounted

    ranks = result.stored.ranks
    certified, short = [], 0
    for pairs in (result.lists.relevance, relevance):
        sides, unsure = recounted(ranks, result.lists, pairs)
        short = max(short, unsure)
        certified.append(certify(sides, ranks.tie_rule, resamples, seed))
    before, after = certified
    lines = [f"95% intervals: bootstrap over images, {resamples:,} resamples from seed {seed}", ""]
    shared = [name for name in after if name in before]
    width = max(len(title_of(name)) for name in shared) + 2
    lines += [
        f"{title_of(name):<{width}}{describe(before[name])}  ->  {describe(after[name])}" for name in shared
    ]
    if short:
        lines.append(
            f"no mAP@R and R-precision: {short:,} queries have more right items than the lists hold; "
            "evaluate again with a larger EVAL.LIST_LENGTH"
        )
    metrics = {
        name: {
            when: {"value": found[name].value, **found[name].as_dict()}
            for when, found in (("before", before), ("after", after))
        }
        for name in shared
    }
    return lines, {"resamples": resamples, "seed": seed, "metrics": metrics}


if __name__ == "__main__":
    run(main)
