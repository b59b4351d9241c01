"""Losses on a batch's scores [B,B]: row i is image i, column j is caption j, pairs on the diagonal."""

import math

import paddle
from paddle import Tensor, nn
from paddle.nn.functional import cross_entropy, relu

from models.gathering import Gather, own_rows, share_weight
from models.losses.memory_queue import MemoryQueue, QueueScores

LARGEST_SCALE = 100.0  # CLIP's bound on the inverse temperature (arXiv 2103.00020, 2.5)

_NOTHING = -1e9  # a logit that adds nothing to a denominator


def _diagonal(size: int) -> Tensor:
    return paddle.eye(size, dtype="int32").astype("bool")  # [B,B]


def duplicate_pairs(image_id: Tensor, sentence_id: Tensor) -> Tensor:
    """Return bool [B,B], true where image i and caption j match without being a pair of the batch.

    They match when their pairs share the image or the very sentence; both ids are [B]. The diagonal
    is false.
    """
    same_image = image_id.unsqueeze(0) == image_id.unsqueeze(1)
    same_sentence = sentence_id.unsqueeze(0) == sentence_id.unsqueeze(1)
    off_diagonal = ~_diagonal(image_id.shape[0])
    return (same_image | same_sentence) & off_diagonal


def hinge_loss(
    scores: Tensor,
    margin: float,
    hard_negative: bool,
    not_negative: Tensor | None = None,
    rivals: QueueScores | None = None,
) -> Tensor:
    """Return the hinge ranking loss, summed over the batch (arXiv 1707.05612, eq. 5 and 6).

    Every caption j should score below an image's own caption by `margin`, and every image below a
    caption's own image. `hard_negative` counts the worst offender of each row and each column alone.
    `scores` are [B,B]; where `not_negative` (bool [B,B]) is true, a pair counts for nothing. `rivals` are
    further negatives of each row and each column.
    """
    own = scores.diagonal()  # [B]
    ignored = _diagonal(scores.shape[0])
    if not_negative is not None:
        ignored = ignored | not_negative
    caption_cost = relu(margin + scores - own.unsqueeze(1)).masked_fill(ignored, 0.0)
    image_cost = relu(margin + scores - own.unsqueeze(0)).masked_fill(ignored, 0.0)
    if rivals is not None:
        further = relu(margin + rivals.captions - own.unsqueeze(1)).masked_fill(rivals.not_negative, 0.0)
        caption_cost = paddle.concat([caption_cost, further], axis=1)  # [B,B+Q]
        further = relu(margin + rivals.images - own.unsqueeze(0)).masked_fill(rivals.not_negative.T, 0.0)
        image_cost = paddle.concat([image_cost, further], axis=0)  # [B+Q,B]
    if hard_negative:
        return _largest(caption_cost, axis=1).sum() + _largest(image_cost, axis=0).sum()
    return caption_cost.sum() + image_cost.sum()


def _largest(costs: Tensor, axis: int) -> Tensor:
    """Return the largest of the matrix `costs` along `axis`; of several, the first has the gradient.

    With `max` each of them would have all of it, and on the CPU its gradient takes thirty times as long.
    """
    return paddle.take_along_axis(costs, costs.detach().argmax(axis=axis, keepdim=True), axis=axis)


def contrastive_loss(
    scores: Tensor,
    logit_scale: Tensor | float,
    not_negative: Tensor | None = None,
    rivals: QueueScores | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss, averaged over the batch and both directions (arXiv 2103.00020).

    `scores` [B,B] are multiplied by `logit_scale`, the inverse temperature; where `not_negative`
    (bool [B,B]) is true, a pair leaves the denominators. `rivals` join them.
    """
    logits = scores * logit_scale
    if not_negative is not None:
        logits = logits.masked_fill(not_negative, _NOTHING)
    of_images, of_captions = logits, logits.T
    if rivals is not None:
        further = (rivals.captions * logit_scale).masked_fill(rivals.not_negative, _NOTHING)
        of_images = paddle.concat([of_images, further], axis=1)  # [B,B+Q]
        further = (rivals.images.T * logit_scale).masked_fill(rivals.not_negative, _NOTHING)
        of_captions = paddle.concat([of_captions, further], axis=1)
    target = paddle.arange(scores.shape[0])
    return (cross_entropy(of_images, target) + cross_entropy(of_captions, target)) / 2


def caption_loss(word_logits: Tensor, words: Tensor, num_captions: int) -> Tensor:
    """Return the negative log-likelihood of `words` [W] under `word_logits` [W,V] (arXiv 1909.02701, eq. 8).

    It is summed over the words of all captions and divided by `num_captions`, as the original does.
    """
    return cross_entropy(word_logits, words, reduction="sum") / num_captions


class _Negatives(nn.Layer):
    """What a loss on scores takes for a negative: pairs of the batch that do not match, and those of a queue.

    `gather` brings the ids of the rows together that the model has compared.
    """

    def __init__(self, mask_duplicates: bool, gather: Gather, queue: MemoryQueue | None) -> None:
        super().__init__()
        self.mask_duplicates = mask_duplicates
        self.gather = gather
        self.queue = queue

    def forward(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor | None, QueueScores | None]:
        """Return what is not a negative in `outputs["scores"]` [N,N], and the queue's rivals; enqueue."""
        if not self.mask_duplicates and self.queue is None:
            return None, None
        ids = self.gather(batch["image_id"], batch["sentence_id"])
        masked = duplicate_pairs(*ids) if self.mask_duplicates else None
        if self.queue is None:
            return masked, None
        pairs = outputs["image"], outputs["text"], *ids
        rivals = self.queue.rivals(*pairs)
        self.queue.add(*pairs)
        return masked, rivals


class HingeLoss(nn.Layer):
    """The hinge ranking loss on a batch: the sum for `sum_epochs` epochs, then the hardest negatives.

    `sum_epochs` may be raised while training goes on, to return to the sum. `gather` brings the ids of the
    rows together that the model has compared; `queue` holds further negatives.
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
    """The contrastive loss with a temperature that is learned: the one parameter `log_scale`.

    `gather`, `queue`: see `HingeLoss`.
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
        with paddle.no_grad():  # bounding the parameter itself keeps its gradient alive at the bound
            self.log_scale.clip_(max=math.log(LARGEST_SCALE))
        scale, negatives = self.log_scale.exp(), self.negatives(outputs, batch)
        return {"contrastive": contrastive_loss(outputs["scores"], scale, *negatives)}


class CaptionedLoss(nn.Layer):
    """A retrieval loss and, where the model wrote captions, `weight` times their loss beside it (VSRN)."""

    def __init__(self, retrieval: HingeLoss | ContrastiveLoss, weight: float) -> None:
        super().__init__()
        self.retrieval = retrieval
        self.weight = weight

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the retrieval loss's terms, and `caption` from `word_logits` and `words` of `outputs`."""
        terms = self.retrieval(outputs, batch, epoch)
        if "word_logits" in outputs:
            count = batch["text_len"].shape[0]
            weight = self.weight * share_weight(count)
            terms["caption"] = weight * caption_loss(outputs["word_logits"], outputs["words"], count)
        return terms
