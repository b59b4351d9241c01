"""Losses on a batch's scores [B,B]: row i is image i, column j caption j, and pairs are on the diagonal."""

import math

import paddle
from paddle import Tensor, nn
from paddle.nn.functional import cross_entropy, relu

from models.gathering import Gather, own_rows, share_weight
from models.losses.memory_queue import MemoryQueue, QueueScores

LARGEST_SCALE = 100.0  # CLIP's bound on the inverse temperature (arXiv 2103.00020, sec. 2.5)

_MASKED = -1e9  # a logit that adds nothing to a softmax's denominator


def _diagonal(size: int) -> Tensor:
    return paddle.eye(size, dtype="int32").astype("bool")  # [B,B]


def duplicate_pairs(image_id: Tensor, sentence_id: Tensor) -> Tensor:
    """Return bool [B,B], true where image i and caption j, i != j, are from pairs that are duplicates.

    Pairs i and j are duplicates if they have the same image or the same sentence; both ids are [B].
    """
    same_image = image_id.unsqueeze(0) == image_id.unsqueeze(1)
    same_sentence = sentence_id.unsqueeze(0) == sentence_id.unsqueeze(1)
    off_diagonal = ~_diagonal(image_id.shape[0])
    return (same_image | same_sentence) & off_diagonal


def right_pairs(right_sentences: Tensor, sentence_id: Tensor) -> Tensor:
    """Return bool [B,B], true where caption j, j != i, is right for image i besides its own.

    `right_sentences` [B,P] are the sentences that are right for each image, padded with -1; `sentence_id` are
    [B].
    """
    right = (right_sentences.unsqueeze(2) == sentence_id).any(axis=1)  # [B,B]
    return right & ~_diagonal(sentence_id.shape[0])


def hinge_loss(
    scores: Tensor,
    margin: float,
    hard_negative: bool,
    not_negative: Tensor | None = None,
    queued: QueueScores | None = None,
) -> Tensor:
    """Return the hinge ranking loss, summed over the batch (arXiv 1707.05612, eq. 5 and 6).

    Every other caption should score lower than an image's own caption by at least `margin`, and every other
    image lower than a caption's own image. With `hard_negative`, only the largest cost of each row and of
    each column counts. Pairs of `scores` [B,B] where `not_negative` (bool [B,B]) is true cost nothing.
    `queued` are further negatives of each row and each column.
    """
    own = scores.diagonal()  # [B]
    ignored = _diagonal(scores.shape[0])
    if not_negative is not None:
        ignored = ignored | not_negative
    caption_cost = relu(margin + scores - own.unsqueeze(1)).masked_fill(ignored, 0.0)
    image_cost = relu(margin + scores - own.unsqueeze(0)).masked_fill(ignored, 0.0)
    if queued is not None:
        further = relu(margin + queued.captions - own.unsqueeze(1)).masked_fill(queued.not_negative, 0.0)
        caption_cost = paddle.concat([caption_cost, further], axis=1)  # [B,B+Q]
        further = relu(margin + queued.images - own.unsqueeze(0)).masked_fill(queued.not_negative.T, 0.0)
        image_cost = paddle.concat([image_cost, further], axis=0)  # [B+Q,B]
    if hard_negative:
        return _largest(caption_cost, axis=1).sum() + _largest(image_cost, axis=0).sum()
    return caption_cost.sum() + image_cost.sum()


def _largest(costs: Tensor, axis: int) -> Tensor:
    """Return the largest of the matrix `costs` along `axis`; among ties, the first has the gradient.

    Paddle's `max` divides the gradient among ties, and on the CPU its gradient takes thirty times as long.
    """
    return paddle.take_along_axis(costs, costs.detach().argmax(axis=axis, keepdim=True), axis=axis)


def contrastive_loss(
    scores: Tensor,
    logit_scale: Tensor | float,
    not_negative: Tensor | None = None,
    queued: QueueScores | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss, averaged over the batch and both directions (arXiv 2103.00020).

    `scores` [B,B] are multiplied by `logit_scale`, the inverse temperature. Pairs where `not_negative` (bool
    [B,B]) is true are left out of the denominators; `queued` pairs are added to the denominators.
    """
    logits = scores * logit_scale
    if not_negative is not None:
        logits = logits.masked_fill(not_negative, _MASKED)
    of_images, of_captions = logits, logits.T
    if queued is not None:
        further = (queued.captions * logit_scale).masked_fill(queued.not_negative, _MASKED)
        of_images = paddle.concat([of_images, further], axis=1)  # [B,B+Q]
        further = (queued.images.T * logit_scale).masked_fill(queued.not_negative, _MASKED)
        of_captions = paddle.concat([of_captions, further], axis=1)
    target = paddle.arange(scores.shape[0])
    return (cross_entropy(of_images, target) + cross_entropy(of_captions, target)) / 2


def caption_loss(word_logits: Tensor, words: Tensor, num_captions: int) -> Tensor:
    """Return the negative log-likelihood of `words` [W] under `word_logits` [W,V] (arXiv 1909.02701, eq. 8).

    The sum over the words of all captions is divided by `num_captions`, as in the original.
    """
    return cross_entropy(word_logits, words, reduction="sum") / num_captions


class _Negatives(nn.Layer):
    """The choice of negatives: which pairs of the batch are none, and which pairs a queue adds.

    `gather` returns the ids of the rows that the model has compared, as the model's own `gather` does for
    embeddings.
    """

    def __init__(self, mask_duplicates: bool, gather: Gather, queue: MemoryQueue | None) -> None:
        super().__init__()
        self.mask_duplicates = mask_duplicates
        self.gather = gather
        self.queue = queue

    def forward(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor | None, QueueScores | None]:
        """Return the mask [N,N] of scores that are no negatives, and the queue's scores; queue the batch."""
        if not self.mask_duplicates and self.queue is None:
            return None, None
        names = [name for name in ("right_sentences", "right_images") if name in batch]
        gathered = self.gather(batch["image_id"], batch["sentence_id"], *(batch[name] for name in names))
        ids, right = gathered[:2], gathered[2:]
        masked = duplicate_pairs(*ids) if self.mask_duplicates else None
        if self.mask_duplicates and right:
            masked = masked | right_pairs(right[0], ids[1])
        if self.queue is None:
            return masked, None
        pairs = outputs["image"], outputs["text"], *ids
        queued = self.queue.scores(*pairs, *right)
        self.queue.add(*pairs)
        return masked, queued


class HingeLoss(nn.Layer):
    """The hinge ranking loss: over all negatives for `sum_epochs` epochs, then over the hardest ones.

    `sum_epochs` may be raised during training, to return to all negatives. `mask_duplicates` leaves out the
    pairs of `duplicate_pairs`. `gather` returns the ids of the rows that the model has compared. `queue`
    holds further negatives.
    """

    def __init__(
        self,
        margin: float,
        hard_negative: bool,
        sum_epochs: int,
        mask_duplicates: bool,
        gather: Gather = own_rows,
        queue: MemoryQueue | None = None,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.hard_negative = hard_negative
        self.sum_epochs = sum_epochs
        self.negatives = _Negatives(mask_duplicates, gather, queue)

    def uses_hard_negatives(self, epoch: int) -> bool:
        """Tell whether the 0-based `epoch` trains on the hardest negatives alone."""
        return self.hard_negative and epoch >= self.sum_epochs

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `hinge` from `outputs["scores"]` and the batch's `image_id` and `sentence_id`."""
        hardest = self.uses_hard_negatives(epoch)
        return {"hinge": hinge_loss(outputs["scores"], self.margin, hardest, *self.negatives(outputs, batch))}


class ContrastiveLoss(nn.Layer):
    """The contrastive loss with a learned temperature, whose inverse is exp(`log_scale`).

    `temperature` is the initial one. `HingeLoss` explains the other arguments.
    """

    def __init__(
        self,
        temperature: float,
        mask_duplicates: bool,
        gather: Gather = own_rows,
        queue: MemoryQueue | None = None,
    ) -> None:
        super().__init__()
        initial = nn.initializer.Constant(-math.log(temperature))
        self.log_scale = self.create_parameter([], default_initializer=initial)
        self.negatives = _Negatives(mask_duplicates, gather, queue)

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `contrastive` from `outputs["scores"]` and the batch's `image_id` and `sentence_id`."""
        with paddle.no_grad():  # clipping the parameter, and not the scale, keeps the gradient at the bound
            self.log_scale.clip_(max=math.log(LARGEST_SCALE))
        scale, negatives = self.log_scale.exp(), self.negatives(outputs, batch)
        return {"contrastive": contrastive_loss(outputs["scores"], scale, *negatives)}


class CaptionedLoss(nn.Layer):
    """A retrieval loss and, if the model decodes captions, `weight` times the caption loss (VSRN)."""

    def __init__(self, retrieval: HingeLoss | ContrastiveLoss, weight: float) -> None:
        super().__init__()
        self.retrieval = retrieval
        self.weight = weight

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the terms of the retrieval loss, and `caption` from outputs `word_logits` and `words`."""
        terms = self.retrieval(outputs, batch, epoch)
        if "word_logits" in outputs:
            count = batch["text_len"].shape[0]
            weight = self.weight * share_weight(count)
            terms["caption"] = weight * caption_loss(outputs["word_logits"], outputs["words"], count)
        return terms
