"""Readers of what jobs keep, to go on after a stop or to tell of themselves, and of files of queries."""

import contextlib
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from datasets.conversion.extraction_folder import Extracted, ExtractionFolder
from datasets.pictures.files import PictureFiles
from datasets.preparation.photos import look_at_photos, write_record
from datasets.preparation.problems import Problems
from datasets.preparation.splits import split_photos
from datasets.scenes.generate import ScenesOptions, make_scenes
from engine.runs.run_folder import RunFolder, read_log
from serving.reports.curves import points, working_seconds
from tests.fuzz.readers import NAMES, READERS, Reader, as_json, as_text
from tests.fuzz.written import WRITTEN
from tests.picture_files import encoded, noisy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))  # tools import their neighbours

from tools._prepared_folder import FEATURES, Earlier, open_folder, write_state
from tools._search_index import read_queries
from tools.runs import describe, find_runs, table

NETWORK = {"kind": "onnx", "size": 8, "mean": [1.0, 2.0, 3.0]}
STATUS = {
    **{"state": "running", "step": 3, "steps": 10, "epoch": 0.5, "samples_per_second": 7.5},
    **{"seconds_left": 60.0, "best_score": 12.5, "updated": "2026-01-01T00:00:00+00:00"},
    **{"pid": 1 << 21, "host": "elsewhere"},
}
LOG = [
    {"event": "train", "step": 1, "loss": 2.0, "time": 1000.0},
    {"event": "validation", "step": 1, "mean_recall": 5.0, "time": 1001.0},
    {"event": "stopped", "step": 1, "message": "by SIGINT", "time": 1002.0},
    {"event": "train", "step": 2, "loss": 1.5, "time": 2000.0},
]
QUERIES = '{"text": "a dog", "text_weight": 2}\n{"text": "cat", "image": "a.jpg", "image_weight": 0.5}\n'


def _run(folder: Path) -> None:
    (folder / "run").mkdir()
    as_json("status.json", STATUS)(folder / "run")
    as_text("config.yaml", "MODEL:\n  NAME: vsepp\nMONITOR:\n  BEST_METRIC: rsum\n")(folder / "run")


def _read_run(folder: Path) -> str:
    now = datetime(2026, 1, 1, 1, tzinfo=timezone.utc)
    return table([describe(run, folder, now) for run in find_runs(folder)])


def _read_log(folder: Path) -> None:
    log = read_log(folder / "log.jsonl")
    for event, key in (("train", "loss"), ("validation", "mean_recall")):
        assert np.isfinite(points(working_seconds(log), log, event, key)).all()
    RunFolder(folder).trim_log(1, 1)


def _extraction(folder: Path) -> None:
    with contextlib.closing(ExtractionFolder(folder / "f.h5", NETWORK)) as job:
        for number in range(2):
            vectors, boxes = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
            job.add([Extracted(NAMES[number], vectors, (9, 8), boxes, ["dog", "é"], [0.5, 0.25])], {})
        job.add([], {NAMES[2]: "zero bytes"})


def _read_extraction(folder: Path) -> None:
    with contextlib.closing(ExtractionFolder(folder / "f.h5", NETWORK)) as job:
        if job.done:
            store = job.store()
            [store[row] for row in range(len(store))]


def _photos(folder: Path) -> None:
    (folder / "p").mkdir()
    for number in range(4):
        (folder / "p" / f"{number}.png").write_bytes(encoded(noisy(20 + number, 16)))
    files = PictureFiles(folder / "p")
    for number in range(4):  # their fingerprints hold the time of writing
        (folder / "p" / f"{number}.png").touch()
    write_record(folder / "photos.json", look_at_photos(files, folder / "none.json", 1))


def _read_photos(folder: Path) -> None:
    files = PictureFiles(folder / "p")
    seen = look_at_photos(files, folder / "photos.json", 1)
    usable = [name for name in files.names if not seen[name].problem]
    split_photos(usable, seen, {}, (0.2, 0.2), 0, Problems())


def _prepared(folder: Path) -> None:
    photos = {name: [5, 7] for name in NAMES}
    splits = dict(zip(NAMES, ("train", "train", "dev", "test"), strict=True))
    write_state(folder, Earlier("/photos", NETWORK, photos, splits))
    (folder / FEATURES).touch()


def _read_prepared(folder: Path) -> None:
    earlier = open_folder(folder, Path("/photos"), NETWORK, add=True, overwrite=False)
    [list(mark) for mark in earlier.photos.values()]
    [split.upper() for split in earlier.splits.values()]


SCENES = ScenesOptions(train=1, dev=1, test=1)

KEPT = {
    "run": Reader(_run, _read_run, ("run/status.json", "run/config.yaml")),
    "curves of a run": Reader(
        as_text("log.jsonl", "".join(json.dumps(record) + "\n" for record in LOG)), _read_log, ("log.jsonl",)
    ),
    "stopped extraction": Reader(
        _extraction, _read_extraction, ("f.h5.extraction/journal.jsonl", "f.h5.extraction/job.json")
    ),
    "photos that were seen": Reader(_photos, _read_photos, ("photos.json",)),
    "prepared photos": Reader(_prepared, _read_prepared, ("prepared.json",)),
    "options of Scenes": Reader(
        lambda folder: make_scenes(folder / "s", SCENES),
        lambda folder: make_scenes(folder / "s", SCENES),
        ("s/meta.json",),
    ),
    "queries": Reader(
        as_text("q.jsonl", QUERIES), lambda folder: read_queries(folder / "q.jsonl"), ("q.jsonl",)
    ),
}
ALL = READERS | WRITTEN | KEPT
