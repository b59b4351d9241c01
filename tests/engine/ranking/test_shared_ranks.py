"""Ranks of shared embeddings equal those of one process; threads stand for the processes of a job."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from engine.ranking.shared_ranks import Share, shared_ranks

from engine.ranking.ranks import retrieval_ranks
from engine.ranking.similarity import similarity_of


class Threads:
    """What processes exchange, among threads."""

    def __init__(self, count: int) -> None:
        self.count, self.own = count, threading.local()
        self._barrier, self._slots = threading.Barrier(count, timeout=60), [None] * count

    def exchange(self, value) -> list:
        self._slots[self.own.rank] = value
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def install(self, monkeypatch) -> None:
        replace = {
            "process_number": lambda: self.own.rank,
            "world_size": lambda: self.count,
            "gather_counts": self.exchange,
            "gather_rows": lambda rows: (
                paddle.to_tensor(np.concatenate([part.numpy() for part in self.exchange(rows)])),
            ),
            "all_reduce": lambda values, how: getattr(np, how)(self.exchange(values), axis=0),
            "broadcast_array": lambda owner, values: self.exchange(values)[owner].copy(),
        }
        for name, function in replace.items():
            monkeypatch.setattr(f"engine.ranking.shared_ranks.{name}", function)

    def run(self, work) -> list:
        def work_as(rank: int):
            self.own.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(work_as, range(self.count)))


def split(seed: int, images: int = 19, sentences: int = 31, captions: int = 45):
    """Return embeddings with equal vectors among images and sentences, ids, and the captions' sentences."""
    random = np.random.default_rng(seed)
    image, text = (
        random.standard_normal((count, 6)).round(1).astype(np.float32) for count in (images, sentences)
    )
    image[[3, 11, 18]] = image[0]
    text[[9, 30]] = text[2]
    caption_image = np.sort(
        np.concatenate([np.arange(images), random.integers(images, size=captions - images)])
    )
    sentence = np.concatenate([np.arange(sentences), random.integers(sentences, size=captions - sentences)])
    ids = [f"image {number // 2}" for number in range(images)]  # two rows an image
    return image, text, ids, caption_image, random.permutation(sentence)


@pytest.mark.parametrize("processes", [1, 2, 3, 25])
@pytest.mark.parametrize(("measure", "rule", "folds"), [("cosine", "against", 1), ("order", "average", 2)])
def test_ranks_are_those_of_one_process(monkeypatch, processes, measure, rule, folds):
    image, text, ids, caption_image, sentence = split(processes)
    caption_ids = [ids[row] for row in caption_image]
    image_fold = (np.arange(len(ids)) // 2 >= 5).astype(int) * (folds - 1)
    caption_fold = image_fold[caption_image]
    expected = retrieval_ranks(
        image, text, ids, caption_ids, measure, 4, rule, sentence, image_fold, caption_fold
    )
    edges = np.linspace(0, len(image), processes + 1).astype(int)
    text_edges = np.linspace(0, len(text), processes + 1).astype(int)
    steps = [[] for _ in range(processes)]

    def work(rank: int):
        own = Share(image[edges[rank] : edges[rank + 1]], np.arange(len(image)))
        texts = Share(text[text_edges[rank] : text_edges[rank + 1]], sentence)
        return shared_ranks(
            own,
            texts,
            ids,
            caption_ids,
            similarity_of(measure),
            4,
            rule,
            image_fold,
            caption_fold,
            lambda done, total: steps[rank].append((done, total)),
        )

    threads = Threads(processes)
    threads.install(monkeypatch)
    for found in threads.run(work):
        for side in (0, 1):
            np.testing.assert_array_equal(found[side], expected[side])
    assert all(each == steps[0] for each in steps)
    assert [done for done, _ in steps[0]] == list(range(1, steps[0][0][1] + 1))
