"""What a service does under twice the load that it can bear: some is answered in time, the rest gets 429.

First CLIENTS connections ask as fast as they are answered, which gives the highest rate and its p99, and once
more at the end, since a machine's speed changes in minutes. In between, queries come at twice that rate, at
even distances, for MINUTES, whatever is answered, over connections that stay open; the memory of the service
is read each second. The client takes its part of the same cores. Index, model and sentences are those of
benchmarks/service.py.

    python benchmarks/overload.py            (MINUTES=10 in the environment; default 1)
"""

from _report import report, run_child

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from service import CLIENTS, PICTURES, WIDTH, make, question, served

MINUTES = float(os.environ.get("MINUTES", "1"))
CONNECTIONS = 512  # at most at the same time: twice as many as the service lets wait


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        port, process, rate = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
        print(json.dumps(asyncio.run(overload(port, process, rate))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        with served("batched", Path(temporary)) as (port, process):
            before = at_full_load(port)
            found = run_child(__file__, "load", str(port), str(process), str(2 * before["rate"]))
            print("twice", found, flush=True)
            time.sleep(2)  # for a second after the last refusal less room is left
            after = at_full_load(port)
    full = {name: (before[name] + after[name]) / 2 for name in before}
    of = f"of {PICTURES:,} x {WIDTH}, {MINUTES:g} min of twice the load that {CLIENTS} clients make"
    report(f"p99 of what is accepted {of}, of full load's", found["p99"], full["p99"], 1, "ms", False)
    report(f"queries/s accepted {of}, of full load's", found["rate"], full["rate"], 0.9, "/s", True)
    report(f"memory {of}: last fifth, of the first fifth's", found["late"], found["early"], 0.95, "MB", False)
    twice, offered = 2 * before["rate"], found["offered"]
    if offered < 0.95 * twice:
        raise SystemExit(f"expected {twice:.0f} queries/s to be offered, got {offered:.0f}")
    if found["others"]:
        raise SystemExit(f"expected 200 and 429 alone, got {found['others']} others")


def at_full_load(port: int) -> dict:
    """Return what CLIENTS connections get that ask as fast as they are answered."""
    found = run_child(Path(__file__).with_name("service.py"), "load", "full", str(port))
    print("full", found, flush=True)
    return found


class Connection(asyncio.Protocol):
    """An open connection that asks one query at a time; the client shall take little of the cores."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Keep what writes."""
        self.transport, self._answer = transport, None

    def ask(self, request: bytes) -> asyncio.Future:
        """Send a request; the future has the status of its answer, or the error that ended the connection."""
        self._answer, self._came = asyncio.get_running_loop().create_future(), b""
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Tell the status once the whole answer is there."""
        self._came += data
        head, end, body = self._came.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            self._answer.set_result(head.split(b" ", 2)[1])

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())


async def overload(port: int, process: int, rate: float) -> dict:
    """Ask at a rate for MINUTES; return what was accepted, refused, how late, and the service's memory."""
    random = np.random.default_rng()
    requests = [question(random) for _ in range(5000)]
    times, refused, others, memory, asked, idle = [], 0, 0, [], set(), []
    began, number = time.perf_counter(), 0
    ends = began + 60 * MINUTES
    free = asyncio.Semaphore(CONNECTIONS)

    async def ask(request: bytes) -> None:
        nonlocal refused, others
        start = time.perf_counter()
        try:
            status = await status_of(request, idle, port)
        except OSError:
            status = b"none"
        finally:
            free.release()
        if status == b"200":
            times.append((time.perf_counter() - start) * 1000)
        elif status == b"429":
            refused += 1
        else:
            others += 1

    async def watch() -> None:
        while time.perf_counter() < ends:
            memory.append(resident(process))
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    while time.perf_counter() < ends:
        await free.acquire()
        task = asyncio.ensure_future(ask(requests[number % len(requests)]))
        asked.add(task)
        task.add_done_callback(asked.discard)
        number += 1
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
    took = time.perf_counter() - began
    await asyncio.gather(*asked, watching)
    fifth = max(1, len(memory) // 5)
    return {
        "rate": len(times) / took,
        "offered": number / took,
        "refused": refused,
        "others": others,
        "p50": float(np.percentile(times, 50)),
        "p99": float(np.percentile(times, 99)),
        "early": median(memory[:fifth]),
        "late": median(memory[-fifth:]),
    }


async def status_of(request: bytes, idle: list[Connection], port: int) -> bytes:
    """Ask on an idle connection, or on a new one, and return the status of the answer."""
    while idle:
        connection = idle.pop()
        if connection.transport.is_closing():  # the service closes what was idle for seconds
            continue
        with contextlib.suppress(ConnectionResetError):  # it was closed while the request was on its way
            status = await connection.ask(request)
            idle.append(connection)
            return status
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    status = await connection.ask(request)
    idle.append(connection)
    return status


def resident(process: int) -> float:
    """Return the megabytes that a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    main()
