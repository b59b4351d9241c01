"""All image-text protocols of COCO 5K from embeddings of width 1024, against 5K alone and eccv-caption.

Ours counts COCO 5K, COCO 1K in five folds, CxC and ECCV Caption, both ways, and the precisions of ECCV
Caption's queries. The first baseline is the plain ranking of 5K alone by commit 79f190b; that of this build
is printed beside it. The second is the package eccv-caption with the same numbers. It reads ordered lists,
so sorting all scores, without which it has nothing to read, is part of its time. It works on one core where
it does not multiply, so the ratio of processor times is printed too. Names and positives are COCO's own,
from the package's folder; without it nothing is measured. CxC's picture-picture and text-text need other
scores, and are left out.
"""

from _report import ROOT, peak_memory, report, run_child, seconds
from builds_ranking import rank_captions

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WIDTH = 1024
DATA = Path(os.environ.get("ECCV_CAPTION_DATA", ROOT.parent / "shared" / "data" / "eval_eccv"))
NAMES = ("one_list", "coco_1k", "cxc", "eccv")


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps({"plain": plain, "ours": ours, "eccv": eccv_caption}[sys.argv[1]](*sys.argv[2:])))
        return
    if not DATA.is_dir():
        raise SystemExit(f"no {DATA}: set ECCV_CAPTION_DATA to the folder `data` of the package eccv-caption")
    from _builds import EARLIER, earlier_build  # not above: a child imports modules of its own build alone

    with tempfile.TemporaryDirectory() as folder, earlier_build(Path(folder) / "build") as earlier:
        alone, together = [run_child(__file__, "plain", str(earlier))], []
        for _ in range(2):
            together.append(run_child(__file__, "ours"))
            alone.append(run_child(__file__, "plain", str(earlier)))
    of_this_build = run_child(__file__, "plain", str(ROOT))
    package = run_child(__file__, "eccv")
    for name in ("i2t_map_at_r", "t2i_map_at_r"):
        print(f"{name}: ours {together[0][name]:.3f}, eccv_caption {package[name]:.3f}", flush=True)
        if abs(together[0][name] - package[name]) > 0.02:  # two of its positives are in no list
            raise RuntimeError("ours and eccv_caption disagree: there is nothing to compare")
    ours_took, plain_took = (statistics.median(run["seconds"] for run in runs) for runs in (together, alone))
    print(f"ours {ours_took:.1f} s, {together[0]['memory']:.2f} GB", flush=True)
    print(f"5K alone: {EARLIER} {plain_took:.1f} s, this build {of_this_build['seconds']:.1f} s", flush=True)
    ratio = package["processor"] / statistics.median(run["processor"] for run in together)
    print(f"against eccv_caption by processor time: {ratio:.1f}", flush=True)
    name = "all image-text protocols of COCO 5K x 1024"
    limit = 1.5 * plain_took
    report(
        f"{name}, of 1.5 times 5K alone by {EARLIER}",
        ours_took,
        limit,
        goal=1,
        unit="s",
        higher_is_better=False,
    )
    report(
        f"{name}, against eccv_caption",
        ours_took,
        package["seconds"],
        goal=20,
        unit="s",
        higher_is_better=False,
    )


def embeddings():
    """Return the file's names, and unit embeddings of which a caption's lies near its picture's."""
    import numpy as np

    captions = np.load(DATA / "coco_test_ids.npy")
    owners = json.loads((DATA / "original_caption_to_image.json").read_text())
    images = np.array([owners[str(caption)][0] for caption in captions])[::5]
    random = np.random.default_rng(0)
    image = random.standard_normal((5000, WIDTH), dtype=np.float32)
    text = np.repeat(image, 5, axis=0) + 8 * random.standard_normal((25_000, WIDTH), dtype=np.float32)
    for side in (image, text):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    return images, captions, image, text


def opened():
    """Return the embeddings as the protocols read them."""
    import numpy as np

    from datasets.relevance import Relevance
    from engine.protocols.scored import Scored

    images, _, image, text = embeddings()
    owner = np.arange(25_000) // 5
    relevance = Relevance.of((5000, 25_000), owner, np.arange(25_000))
    names = [f"COCO_val2014_{number:012}.jpg" for number in images]
    return Scored(Path("coco.npz"), names, owner, relevance, None, None, image, text)


def plain(root: str) -> dict:
    """Rank 5K alone with the build in `root`."""
    sys.path.insert(0, root)
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    import numpy as np

    rank = rank_captions()
    images, _, image, text = embeddings()
    return measured(lambda: rank(image, text, images, np.repeat(images, 5)))


def measured(work: Callable[[], object]) -> dict:
    """Return the seconds that `work` takes, by the clock and of the processor, and the peak memory."""
    before = time.process_time()
    took = seconds(work)
    return {"seconds": took, "processor": time.process_time() - before, "memory": peak_memory()}


def ours() -> dict:
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    import numpy as np

    from engine.protocols.protocols import Request, count_protocols

    request, counted = Request(opened(), data=DATA), []
    took = measured(lambda: counted.extend(count_protocols(request, NAMES)))
    sides = counted[NAMES.index("eccv")].sides
    values = {
        f"{side}map_at_r": 100 * float(np.mean(each.precisions["map_at_r"])) for side, each in sides.items()
    }
    return {**took, **values}


def eccv_caption() -> dict:
    import numpy as np
    from eccv_caption import Metrics

    images, captions, image, text = embeddings()
    found: dict = {}

    def evaluate() -> None:
        scores = image @ text.T
        i2t = {
            int(number): captions[np.argsort(-row)].tolist()
            for number, row in zip(images, scores, strict=True)
        }
        t2i = {
            int(number): images[np.argsort(-row)].tolist()
            for number, row in zip(captions, scores.T, strict=True)
        }
        recalls = (
            "coco_1k_recalls",
            "coco_5k_recalls",
            "cxc_recalls",
            "eccv_map_at_r",
            "eccv_r1",
            "eccv_rprecision",
        )
        found.update(Metrics().compute_all_metrics(i2t, t2i, target_metrics=recalls, Ks=(1, 5, 10)))

    took = measured(evaluate)
    values = {f"{side}_map_at_r": 100 * float(found["eccv_map_at_r"][side]) for side in ("i2t", "t2i")}
    return {**took, **values}


if __name__ == "__main__":
    main()
