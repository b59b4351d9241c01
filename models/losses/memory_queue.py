"""A queue of the embeddings of past batches, which serve as further negatives (XBM, arXiv 1912.06798)."""

from collections.abc import Callable
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn


@dataclass(frozen=True)
class QueueScores:
    """Scores of a batch's B pairs with Q queued pairs; no gradient reaches the queued embeddings.

    `captions` [B,Q] are the scores of the batch's images with queued captions, `images` [Q,B] those of queued
    images with the batch's captions. `not_negative` (bool [B,Q]) is true where the two pairs share the image
    or the sentence, or where the one's caption is right for the other's image.
    """

    captions: Tensor
    images: Tensor
    not_negative: Tensor


class MemoryQueue(nn.Layer):
    """The embeddings of the last `size` training pairs, as the model computed them at that step.

    `embed_dim` is D. The first `start` batches are not queued, since embeddings still move fast. `similarity`
    is the model's score of images [I,D] and texts [T,D]. The queue is stored in buffers, so a checkpoint
    holds it and a resumed run continues with it.
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
        self.register_buffer("seen", paddle.zeros([2], "int64"))  # numbers of batches and of queued pairs

    def scores(
        self,
        image: Tensor,
        text: Tensor,
        image_id: Tensor,
        sentence_id: Tensor,
        right_sentences: Tensor | None = None,
        right_images: Tensor | None = None,
    ) -> QueueScores | None:
        """Return the queue's scores with pairs of embeddings [B,D] and ids [B]; None for an empty queue.

        `right_sentences` [B,P] and `right_images` [B,P] are further right ones for each image and caption.
        """
        filled = min(self.size, int(self.seen[1]))
        if not filled:
            return None
        same_image = image_id.unsqueeze(1) == self.image_id[:filled]
        same_sentence = sentence_id.unsqueeze(1) == self.sentence_id[:filled]
        none = same_image | same_sentence
        if right_sentences is not None:
            none = none | _any_equal(right_sentences, self.sentence_id[:filled])
            none = none | _any_equal(right_images, self.image_id[:filled])
        # Copies, since the backward pass needs the embeddings after `add` has overwritten the oldest.
        queued_image, queued_text = self.image[:filled].clone(), self.text[:filled].clone()
        return QueueScores(
            self.similarity(image, queued_text),
            self.similarity(queued_image, text),
            none,
        )

    def add(self, image: Tensor, text: Tensor, image_id: Tensor, sentence_id: Tensor) -> None:
        """Queue a batch in place of the oldest pairs; of a batch larger than `size`, queue the last pairs."""
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


def _any_equal(lists: Tensor, ids: Tensor) -> Tensor:
    """Return whether each of `ids` [Q] is on each of the `lists` [B,P]: bool [B,Q]."""
    return (lists.unsqueeze(2) == ids).any(axis=1)
