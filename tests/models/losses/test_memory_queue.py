"""The queue of past pairs: what it holds, and what losses make of it, recomputed by loops."""

import math

import numpy as np
import paddle
import pytest

from models.dual_encoder import cosine_similarity
from models.losses.memory_queue import MemoryQueue
from models.losses.ranking import ContrastiveLoss, HingeLoss
from tests.closeness import assert_close, largest

DIM, MARGIN = 4, 0.2


def queue(size: int = 5, start: int = 0) -> MemoryQueue:
    return MemoryQueue(size, DIM, start, cosine_similarity)


def batch_of(seed: int, rows: int) -> tuple[dict, dict]:
    random = np.random.default_rng(seed)
    outputs = {
        name: paddle.to_tensor(random.standard_normal((rows, DIM)).astype(np.float32))
        for name in ("image", "text")
    }
    for tensor in outputs.values():
        tensor.stop_gradient = False
    outputs["scores"] = outputs["image"] @ outputs["text"].T
    ids = {name: paddle.to_tensor(random.integers(0, 6, rows)) for name in ("image_id", "sentence_id")}
    return outputs, ids


def looped(batches: list[tuple[dict, dict]], size: int, start: int) -> list[dict[str, float]]:
    """Return what each batch loses to itself and to the last `size` pairs before it."""
    past, losses = [], []
    for number, (outputs, ids) in enumerate(batches):
        image, text = (outputs[name].numpy().astype(float) for name in ("image", "text"))
        pairs = [
            (image[row], text[row], int(ids["image_id"][row]), int(ids["sentence_id"][row]))
            for row in range(len(image))
        ]
        losses.append({"sum": 0.0, "hardest": 0.0, "contrastive": 0.0})
        for row, (own_image, own_text, image_id, sentence_id) in enumerate(pairs):
            rivals = [other for place, other in enumerate(pairs) if place != row] + past[-size:]
            rivals = [other for other in rivals if other[2] != image_id and other[3] != sentence_id]
            own = own_image @ own_text
            for scores in ([own_image @ r[1] for r in rivals], [r[0] @ own_text for r in rivals]):
                costs = [max(0.0, MARGIN + score - own) for score in scores]
                losses[-1]["sum"] += sum(costs)
                losses[-1]["hardest"] += max(costs, default=0.0)
                total = math.exp(2 * own) + sum(math.exp(2 * score) for score in scores)
                losses[-1]["contrastive"] -= math.log(math.exp(2 * own) / total) / (2 * len(pairs))
        if number >= start:
            past += pairs
    return losses


LOSSES = {
    "sum": lambda queue: HingeLoss(MARGIN, False, 0, True, queue=queue),
    "hardest": lambda queue: HingeLoss(MARGIN, True, 0, True, queue=queue),
    "contrastive": lambda queue: ContrastiveLoss(0.5, True, queue=queue),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("size", "start"), [(5, 0), (8, 2), (2, 1)])
def test_losses_count_the_last_pairs_before_a_batch_among_its_negatives(name, size, start):
    batches = [batch_of(seed, 3) for seed in range(6)]
    loss = LOSSES[name](queue(size, start))
    found = np.stack([sum(loss(*batch, 0).values()).numpy() for batch in batches])
    assert_close(found, [each[name] for each in looped(batches, size, start)], DIM + 6 * (3 + size) + 10)


def test_queued_pairs_have_no_gradient_but_give_one():
    loss = HingeLoss(10.0, False, 0, True, queue=queue())
    (old, old_ids), (new, new_ids) = batch_of(0, 3), batch_of(1, 1)
    loss(old, old_ids, 0)
    new_ids["image_id"][:], new_ids["sentence_id"][:] = 77, 77
    loss(new, new_ids, 0)["hinge"].backward()
    assert old["image"].grad is None
    expected = sum(old["text"].numpy()) - 3 * new["text"].numpy()[0] - 3 * new["text"].numpy()[0]
    assert_close(new["image"].grad.numpy()[0], expected, 8, 6 * largest([old["text"], new["text"]]))


def test_a_restored_queue_goes_on_as_the_one_that_was_saved():
    batches = [batch_of(seed, 3) for seed in range(4)]
    first, second = (HingeLoss(MARGIN, True, 0, True, queue=queue()) for _ in range(2))
    for batch in batches[:3]:
        first(*batch, 0)
    second.set_state_dict(first.state_dict())
    assert float(first(*batches[3], 0)["hinge"]) == float(second(*batches[3], 0)["hinge"])


def test_of_a_batch_beyond_its_size_the_last_pairs_are_kept():
    kept = queue(size=2)
    outputs, ids = batch_of(0, 5)
    kept.add(outputs["image"], outputs["text"], ids["image_id"], ids["sentence_id"])
    assert sorted(kept.image.numpy().tolist()) == sorted(outputs["image"].numpy()[-2:].tolist())
