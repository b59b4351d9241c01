"""Concurrent queries are answered together, within bounds."""

import asyncio
import threading

import pytest

from serving.app.batching import Batcher, FullError, LateError
from serving.app.metrics import Metrics


class Slow:
    """Answers with the question doubled, after it is let go on."""

    def __init__(self) -> None:
        self.go, self.batches, self.began = threading.Event(), [], threading.Event()

    def __call__(self, questions):
        self.batches.append(list(questions))
        self.began.set()
        self.go.wait(10)
        return [ValueError("odd") if question % 2 else 2 * question for question in questions]


def started(batcher: Batcher, questions, seconds: float = 10.0) -> list[asyncio.Task]:
    return [asyncio.ensure_future(batcher.ask(question, seconds)) for question in questions]


def test_what_comes_while_one_is_answered_is_the_next_batch():
    async def asked() -> None:
        slow = Slow()
        batcher = Batcher(slow, Metrics(), most_together=4)
        first = started(batcher, [0])
        await asyncio.to_thread(slow.began.wait)
        rest = started(batcher, [2, 4, 6, 8, 10])
        await asyncio.sleep(0)
        slow.go.set()
        assert await asyncio.gather(*first, *rest) == [0, 4, 8, 12, 16, 20]
        assert slow.batches == [[0], [2, 4, 6, 8], [10]]
        batcher.close()

    asyncio.run(asked())


def test_a_wrong_question_spoils_no_other():
    async def asked() -> None:
        slow = Slow()
        slow.go.set()
        batcher = Batcher(slow, Metrics())
        results = await asyncio.gather(*started(batcher, [2, 3, 4]), return_exceptions=True)
        assert results[0] == 4 and results[2] == 8 and isinstance(results[1], ValueError)
        batcher.close()

    asyncio.run(asked())


def test_an_answerer_that_breaks_does_not_end_the_service():
    async def asked() -> None:
        calls = []

        def answer(questions):
            calls.append(questions)
            if len(calls) == 1:
                raise RuntimeError("broken")
            return questions

        batcher = Batcher(answer, Metrics())
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.ask(1, 10)
        assert await batcher.ask(2, 10) == 2
        batcher.close()

    asyncio.run(asked())


def test_no_more_questions_are_inside_than_there_is_room_and_the_rest_is_refused():
    async def asked() -> None:
        slow = Slow()
        batcher = Batcher(slow, Metrics(), most_together=1, room=3)
        first = started(batcher, [0])
        await asyncio.to_thread(slow.began.wait)
        waiting = started(batcher, [2, 4])
        await asyncio.sleep(0)
        assert batcher.refuses()
        with pytest.raises(FullError):
            await batcher.ask(6, 10)
        slow.go.set()
        assert await asyncio.gather(*first, *waiting) == [0, 4, 8]
        assert not batcher.refuses() and await batcher.ask(6, 10) == 12
        batcher.close()

    asyncio.run(asked())


def test_a_quarter_of_the_room_stays_free_for_a_second_after_a_refusal(monkeypatch):
    """Refusals take time, too, which those that are inside would wait for."""

    async def asked() -> None:
        slow, now = Slow(), 0.0
        monkeypatch.setattr("serving.app.batching.time.monotonic", lambda: now)
        batcher = Batcher(slow, Metrics(), most_together=4, room=8)
        first = started(batcher, range(0, 16, 2))
        await asyncio.sleep(0)
        assert batcher.refuses()
        slow.go.set()
        await asyncio.gather(*first)
        slow.go.clear()
        second = started(batcher, range(0, 12, 2))
        await asyncio.sleep(0)
        assert batcher.refuses(), "6 are inside"
        now = 0.9
        assert batcher.refuses()
        now = 1.95
        assert not batcher.refuses(), "nobody was refused for a second"
        slow.go.set()
        await asyncio.gather(*second)
        batcher.close()

    asyncio.run(asked())


def test_a_question_whose_time_is_over_is_refused_and_never_answered():
    async def asked() -> None:
        slow = Slow()
        batcher = Batcher(slow, Metrics(), most_together=1)
        first = started(batcher, [0])
        await asyncio.to_thread(slow.began.wait)
        with pytest.raises(LateError):
            await batcher.ask(2, 0.01)
        slow.go.set()
        await asyncio.gather(*first)
        assert await batcher.ask(4, 10) == 8
        assert [2] not in slow.batches
        batcher.close()

    asyncio.run(asked())


def test_closing_answers_what_waits_and_refuses_what_comes():
    async def asked() -> None:
        slow = Slow()
        batcher = Batcher(slow, Metrics())
        tasks = started(batcher, [0, 2])
        await asyncio.to_thread(slow.began.wait)
        threading.Timer(0.05, slow.go.set).start()
        await asyncio.to_thread(batcher.close)
        assert await asyncio.gather(*tasks) == [0, 4]
        with pytest.raises(FullError):
            await batcher.ask(4, 10)

    asyncio.run(asked())
