"""Reading and tokenising 125,000 captions with NLTK's tokens, against an earlier build.

A file of captions of Flickr30k is read, and each caption becomes tokens. The tokens of both builds must be
equal. Each measurement has its own process, and the import of what it needs counts.
"""

from _report import ROOT, report, rounds_of, run_child, seconds

import gzip
import hashlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

CAPTIONS, ROUNDS = 125_000, 3


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    from _builds import earlier_build  # not above: a child imports modules of its own build alone

    shared = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared")) / "data" / "text"
    sources = [shared / f"flickr30k_train.{number}.en.gz" for number in range(1, 6)]
    if not all(source.is_file() for source in sources):
        print(f"reading 125000 captions: not here, since {shared} holds no captions of Flickr30k")
        return
    with tempfile.TemporaryDirectory() as folder, earlier_build(Path(folder) / "build") as earlier:
        captions = Path(folder) / "captions.txt"
        lines = [line for source in sources for line in gzip.decompress(source.read_bytes()).splitlines(True)]
        captions.write_bytes(b"".join(lines[:CAPTIONS]))
        roots = {"ours": ROOT, "earlier": earlier}
        runs: dict[str, list[dict]] = {side: [] for side in roots}
        for _ in range(rounds_of(ROUNDS)):
            for side, root in roots.items():
                runs[side].append(run_child(__file__, str(root), str(captions)))
                print(f"{side}: {runs[side][-1]['seconds']:.2f} s", flush=True)
    if len({run["tokens"] for side in runs.values() for run in side}) > 1:
        raise RuntimeError("the builds' tokens differ: there is nothing to compare")
    took = (statistics.median(run["seconds"] for run in runs[side]) for side in roots)
    name = f"reading {CAPTIONS} captions with nltk's tokens against 79f190b"
    report(name, *took, goal=3, unit="s", higher_is_better=False)


def measure(root: str, captions: str) -> dict:
    sys.path.insert(0, root)
    found = []

    def read() -> None:
        try:
            from datasets.words.tokens import tokenize
        except ImportError:
            from datasets.text import tokenize
        lines = Path(captions).read_text("utf-8").splitlines()
        found.extend(tokenize(line, "nltk") for line in lines)

    took = seconds(read)
    return {"seconds": took, "tokens": hashlib.sha256(json.dumps(found).encode()).hexdigest()}


if __name__ == "__main__":
    main()
