"""A queue of the embeddings of past batches, as further negatives of small ones (XBM, arXiv 1912.06798)."""

from collections.abc import Callable
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn


@dataclass(frozen=True)
class QueueScores:
    """Scores of a batch's B pairs with Q queued ones, which have no gradient themselves.

    `captions` [B,Q]: of its images with queued captions; `images` [Q,B]: of queued images with its captions.
    Where `not_negative` (bool [B,Q]) is true, the two pairs share the image or the sentence.
    """

    captions: Tensor
    images: Tensor
    not_negative: Tensor


class MemoryQueue(nn.Layer):
    """The last `size` pairs that were trained on, as they were embedded then.

    embed_dim: D of the embeddings. start: batches that are not kept, while embeddings still move fast.
    similarity: of images [I,D] and texts [T,D], as the model scores them. Everything is in buffers, which a
    checkpoint holds, so that a resumed run has the queue it was stopped with.
    """

    def __init__(
        self, size: int, embed_dim: int, start: int, similarity: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.size, self.start, self.similarity = size, start, similarity
        self.register_buffer("image", paddle.zeros([size, embed_dim]))
        self.register_buffer("text", paddle.zeros([size, embed_dim]))
        self.register_buffer("image_id", paddle.zeros([size], "int64"))
        self.register_buffer("sentence_id", paddle.zeros([size], "int64"))
        self.register_buffer("seen", paddle.zeros([2], "int64"))  # batches, and the pairs that were kept

    def rivals(
        self, image: Tensor, text: Tensor, image_id: Tensor, sentence_id: Tensor
    ) -> QueueScores | None:
        """Return the queue's scores with pairs of embeddings [B,D] and ids [B]; None while it is empty."""
        filled = min(self.size, int(self.seen[1]))
        if not filled:
            return None
        same_image = image_id.unsqueeze(1) == self.image_id[:filled]
        same_sentence = sentence_id.unsqueeze(1) == self.sentence_id[:filled]
        # Copies: the gradient needs them after `add` has written over the oldest.
        queued_image, queued_text = self.image[:filled].clone(), self.text[:filled].clone()
        return QueueScores(
            self.similarity(image, queued_text),
            self.similarity(queued_image, text),
            same_image | same_sentence,
        )

    def add(self, image: Tensor, text: Tensor, image_id: Tensor, sentence_id: Tensor) -> None:
        """Keep a batch in the place of the oldest pairs; of more than `size`, the last."""
        batches, pairs = self.seen.tolist()
        kept = min(self.size, len(image)) if batches >= self.start else 0
        if kept:
            places = (pairs + paddle.arange(kept)) % self.size
            for queue, rows in (
                (self.image, image),
                (self.text, text),
                (self.image_id, image_id),
                (self.sentence_id, sentence_id),
            ):
                queue.scatter_(places, rows[-kept:].detach())
        self.seen.set_value(paddle.to_tensor([batches + 1, pairs + kept]))
