"""Answers concurrent queries together: what has come while one batch was answered is the next one.

Nothing waits for others: a query that comes alone is answered alone, at once.
"""

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from serving.app.metrics import Metrics


class FullError(Exception):
    """The queue is full, or the service is about to end; a client may try again later."""


class LateError(Exception):
    """The deadline of a query has passed."""


@dataclass
class _Job:
    question: object
    deadline: float  # of time.monotonic
    came: float = field(default_factory=time.monotonic)
    future: Future = field(default_factory=Future)


class Batcher:
    """A bounded queue before `answer`, which one thread calls with at most `most_together` questions.

    `answer` returns an answer, or an exception, for each question. At most `room` questions are inside, those
    that are being answered among them, so that the last one is answered as soon as `room` questions can be.
    Refusing others takes the processor's time, too: for a second after one was refused, a quarter of the room
    stays free, so that those inside do not wait for longer.
    """

    def __init__(
        self,
        answer: Callable[[Sequence], list],
        metrics: Metrics,
        most_together: int = 64,
        room: int = 64,
    ) -> None:
        self._answer, self._metrics, self._most = answer, metrics, most_together
        self._jobs: queue.Queue[_Job | None] = queue.Queue(room)
        self._room, self._inside, self._closed = room, 0, False
        self._refused = -math.inf  # when one was, by time.monotonic
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def refuses(self) -> bool:
        """Tell whether a question that comes now is refused."""
        now = time.monotonic()
        room = self._room if now > self._refused + 1 else self._room - self._room // 4
        full = self._inside >= room
        if full:
            self._refused = now
        return full or self._closed

    async def ask(self, question: object, seconds: float) -> object:
        """Return the answer of a question; raise FullError, LateError after `seconds`, or what it raised."""
        job = _Job(question, time.monotonic() + seconds)
        try:
            if self.refuses():
                raise queue.Full
            self._jobs.put_nowait(job)
        except queue.Full:
            self._metrics.refused.labels("full").inc()
            raise FullError from None
        self._metrics.waiting.set(self._jobs.qsize())
        self._inside += 1
        try:
            # A client that leaves cancels this coroutine, and with it the job if it still waits.
            return await asyncio.wait_for(asyncio.wrap_future(job.future), seconds)
        except asyncio.TimeoutError:  # its own class until Python 3.11
            self._metrics.refused.labels("deadline").inc()
            raise LateError from None
        finally:
            self._inside -= 1

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    ended = True
                elif time.monotonic() < job.deadline and job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                if len(jobs) >= self._most:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            self._metrics.waiting.set(self._jobs.qsize())
            if jobs:
                self._answer_together(jobs)

    def _answer_together(self, jobs: list[_Job]) -> None:
        self._metrics.batches.observe(len(jobs))
        for job in jobs:
            self._metrics.steps.labels("queue").observe(time.monotonic() - job.came)
        try:
            answers = self._answer([job.question for job in jobs])
        except Exception as error:  # whatever it is, each client must hear of it, and the thread must go on
            answers = [error] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            with contextlib.suppress(Exception):  # cancelled in between
                if isinstance(answer, Exception):
                    job.future.set_exception(answer)
                else:
                    job.future.set_result(answer)
