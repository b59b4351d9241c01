"""Queries a second over HTTP: batched, one by one, and by the service that one writes in an afternoon.

The index holds 100,000 random vectors of 1024 numbers, and the sentences are encoded by a VSE++ (GRU, random
words). The afternoon's service (FastAPI, faiss.IndexFlatIP, the same graph in ONNX Runtime, a request at a
time) has the same vectors, words and hits. Every service is a process of its own, and takes its turns of
closed loops of CLIENTS connections, from one process that does nothing else; all share the cores. Then ours
alone gets 50 queries a second at even distances.
"""

from _report import ROOT, report, run_child, untuned

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import quote

import numpy as np

PICTURES, WIDTH, FEATURES, SMALL = 100_000, 1024, 64, 128
CLIENTS, SECONDS, ROUNDS, RATE = 64, 8.0, 2, 50
SIDES = ("batched", "one by one", "afternoon")


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["load"]:
        print(json.dumps(asyncio.run(load(int(sys.argv[3]), sys.argv[2] == "even"))))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(Path(temporary))


def compare(folder: Path) -> None:
    """Make a bundle and an index, let the services take turns, and report."""
    make(folder)
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side in SIDES:
            found[side].append(saturated(side, folder))
            print(side, found[side][-1], flush=True)
    rate = {side: median(each["rate"] for each in found[side]) for side in SIDES}
    late = {side: median(each["p99"] for each in found[side]) for side in SIDES}
    of = f"of {PICTURES:,} x {WIDTH}, {CLIENTS} clients"
    report(f"queries/s {of}: batched, against one by one", rate["batched"], rate["one by one"], 3, "/s", True)
    report(f"queries/s {of}: against an afternoon's", rate["batched"], rate["afternoon"], 3, "/s", True)
    cost = {side: median(each["cost"] for each in found[side]) for side in SIDES}
    report(
        f"processor time a query {of}: batched, of one by one's",
        cost["batched"],
        cost["one by one"],
        3,
        "ms",
        False,
    )
    report(f"p99 {of}: against an afternoon's", late["batched"], late["afternoon"], 1, "ms", False)
    with served("batched", folder) as (port, _):
        even = [run_child(__file__, "load", "even", str(port)) for _ in range(ROUNDS)]
    for name, limit in (("p50", 15.0), ("p99", 60.0)):
        measured = median(each[name] for each in even)
        report(
            f"{name} of a sentence over HTTP at {RATE} queries/s, of {limit:g} ms",
            measured,
            limit,
            1,
            "ms",
            False,
        )


def saturated(side: str, folder: Path) -> dict:
    """Return what CLIENTS that ask without a pause get of a service, and its processor time for a query."""
    with served(side, folder) as (port, process):
        before = processor_seconds(process)
        found = run_child(__file__, "load", "full", str(port))
        return found | {"cost": (processor_seconds(process) - before) * 1000 / found["answered"]}


def processor_seconds(process: int) -> float:
    """Return the seconds that all threads of a process have worked; other load changes them little."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make(folder: Path) -> None:
    """Write a bundle of a model that has hardly been trained, and an index of random vectors."""
    random = np.random.default_rng(0)
    (folder / "data").mkdir()
    for split in ("train", "dev", "test"):
        np.save(folder / "data" / f"{split}_ims.npy", random.random((SMALL, FEATURES), np.float32))
        words = random.integers(0, 2000, (SMALL, 10))
        lines = (" ".join(f"w{word}" for word in row) for row in words)
        (folder / "data" / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))
    settings = [
        *("--cfg_file", ROOT / "configs" / "f30k" / "vsepp.yaml", f"DATASET.DATA_DIR={folder / 'data'}"),
        *(f"INPUT.IMG_FEATURE_DIM={FEATURES}", f"MODEL.EMBED_DIM={WIDTH}", "INPUT.TOKENIZER=whitespace"),
        *("DATASET.CAPTIONS_PER_IMAGE=1", f"OUTPUT.CHECKPOINT_DIR={folder}", "OUTPUT.SAVE_NAME=run"),
        *("INPUT.VOCAB_THRESHOLD=1", "OPTIMIZATION.EPOCHS=1"),
    ]
    bundle, index = folder / "bundle", folder / "index"
    run("train_retrieval", *settings)
    run("export_model", *settings, "--out", bundle)
    run("build_index", "--bundle", bundle, "--gallery", folder / "data" / "test_ims.npy", "--out", index)
    from serving.index.build import compact
    from serving.index.finishing import Options
    from serving.index.index import Index
    from serving.index.items import Item

    with Index(index, writable=True, resident=False) as opened:
        for start in range(0, PICTURES - SMALL, 10_000):
            count = min(10_000, PICTURES - SMALL - start)
            vectors = random.standard_normal((count, WIDTH), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            opened.add([Item(f"r{start + row}", f"item {start + row}") for row in range(count)], vectors)
    print(compact(index, Options("int8", bundle_folder=str(bundle))).describe(), flush=True)


def run(tool: str, *arguments: object) -> None:
    """Run a tool; raise RuntimeError where it fails."""
    command = [sys.executable, ROOT / "tools" / f"{tool}.py", *map(str, arguments)]
    child = subprocess.run(command, env=untuned(), capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{tool} ended with {child.returncode}: {child.stderr[-2000:]}")


@contextlib.contextmanager
def served(side: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Run a service during the block, and yield its port and the number of its process."""
    command = [sys.executable, __file__, "serve", side, folder]
    with subprocess.Popen(command, env=untuned(), stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise RuntimeError(f"{side} does not start: {line}")
            yield int(line.split()[1]), process.pid
        finally:
            process.terminate()


def serve(side: str, folder: Path) -> None:
    """Serve until the process is ended."""
    import socket

    import uvicorn

    app = afternoon(folder) if side == "afternoon" else ours(folder, 64 if side == "batched" else 1)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as tools/serve_retrieval.py does
    print("ready", listening.getsockname()[1], flush=True)
    from serving.app.guard import Protocol

    http = "h11" if side == "afternoon" else partial(Protocol, refusal=app.state.refusal)
    config = uvicorn.Config(app, access_log=False, log_level="error", http=http, proxy_headers=False)
    uvicorn.Server(config).run(sockets=[listening])


def ours(folder: Path, most_together: int):
    """Return our service."""
    from serving.app.collection import Collection
    from serving.app.metrics import Metrics
    from serving.app.pictures import Thumbnails
    from serving.app.service import make_app
    from serving.app.settings import Settings

    metrics = Metrics()
    settings = Settings(most_together=most_together, deadline_seconds=60)  # on a busy machine, too
    return make_app(Collection(folder / "index", metrics), Thumbnails(None, None), settings, metrics)


def afternoon(folder: Path):
    """Return the service of an afternoon: everything in memory, and one request after the other."""
    import faiss
    from fastapi import FastAPI

    from serving.bundle.bundle import Bundle
    from serving.index.index import Index

    bundle, engine = Bundle.open(folder / "bundle"), faiss.IndexFlatIP(WIDTH)
    with Index(folder / "index", resident=False) as index:
        items = list(index.items())
        for start in range(0, len(items), 10_000):
            engine.add(index.vectors_of([item.id for item in items[start : start + 10_000]]))
    app = FastAPI()

    @app.get("/v1/search")
    async def search(q: str, k: int = 20) -> dict:
        scores, rows = engine.search(bundle.encode_texts([q]), k)
        hits = [
            {"id": items[row].id, "score": float(score), "caption": items[row].caption}
            for score, row in zip(scores[0], rows[0], strict=True)
        ]
        return {"hits": hits}

    return app


def question(random: np.random.Generator) -> bytes:
    """Return a request for the hits of a random sentence of ten words."""
    text = " ".join(f"w{word}" for word in random.integers(0, 1200, 9)) + " w1"
    return f"GET /v1/search?q={quote(text)}&k=20 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def answered(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return status and body of the answer that comes next."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return head.split(b" ", 2)[1].decode(), await reader.readexactly(length)


async def load(port: int, even: bool) -> dict:
    """Return queries a second, and the median and 99th percentile of the milliseconds of an answer."""
    random, times, count = np.random.default_rng(1), [], 0
    ends = time.perf_counter() + 1 + SECONDS
    counted_from = ends - SECONDS

    async def ask(reader, writer) -> None:
        nonlocal count
        began = time.perf_counter()
        writer.write(question(random))
        status, body = await answered(reader)
        if status != "200":
            raise RuntimeError(f"refused: {body[:200]}")
        count += 1
        if counted_from < time.perf_counter() < ends:
            times.append((time.perf_counter() - began) * 1000)

    async def one_after_another() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < ends:
            await ask(reader, writer)
        writer.close()

    async def at_even_distances() -> None:
        free, began = (
            [await asyncio.open_connection("127.0.0.1", port) for _ in range(32)],
            time.perf_counter(),
        )
        asked = []

        async def on_free_connection() -> None:
            while free and free[-1][0].at_eof():  # the service closes those that were idle for long
                free.pop()
            pair = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
            await ask(*pair)
            free.append(pair)

        while time.perf_counter() < ends:
            asked.append(asyncio.ensure_future(on_free_connection()))
            await asyncio.sleep(max(0.0, began + len(asked) / RATE - time.perf_counter()))
        await asyncio.gather(*asked)

    await asyncio.gather(*([at_even_distances()] if even else [one_after_another() for _ in range(CLIENTS)]))
    p50, p99 = np.percentile(times, [50, 99])
    return {"rate": len(times) / SECONDS, "p50": float(p50), "p99": float(p99), "answered": count}


if __name__ == "__main__":
    main()
