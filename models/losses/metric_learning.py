"""Losses of metric learning: on a batch of embeddings [B,D] and the classes [B] of its images.

Distances are squared Euclidean ones. `labels` are integers [B]; images of equal labels are of one class.
"""

from collections.abc import Callable

import paddle
from paddle import Tensor, nn
from paddle.nn.functional import log_softmax, relu

from models.encoders import l2norm
from models.gathering import Gather, own_rows, share_weight

DistanceLoss = Callable[[Tensor, Tensor], Tensor]  # distances [B,B] and labels [B] -> a scalar

_FAR = 1e9  # beyond any distance


def squared_distances(embeddings: Tensor) -> Tensor:
    """Return the squared Euclidean distances [B,B] among `embeddings` [B,D]."""
    squares = (embeddings * embeddings).sum(axis=1)  # [B]
    products = embeddings @ embeddings.T
    return relu(squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * products)  # rounding may take it below 0


def smoothed_softmax_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `logits` [B,C] with smoothed `labels` [B] (arXiv 1512.00567, sec. 7).

    `smoothing` is the share of the target that is spread evenly over all C classes.
    """
    log_probability = log_softmax(logits, axis=1)
    own = paddle.take_along_axis(log_probability, labels.unsqueeze(1), axis=1)  # [B,1]
    return -((1 - smoothing) * own.mean() + smoothing * log_probability.mean())


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean of relu(d(anchor, positive) - d(anchor, negative) + margin) (arXiv 1503.03832, eq. 2).

    All three are [N,D], a triplet a row; d is the squared distance.
    """
    to_positive = ((anchor - positive) ** 2).sum(axis=1)  # [N]
    to_negative = ((anchor - negative) ** 2).sum(axis=1)
    return relu(to_positive - to_negative + margin).mean()


def batch_hard_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the triplet loss of each image's farthest positive and nearest negative.

    Batch-hard mining (arXiv 1703.07737, eq. 5): the mean over the images that have both a positive and a
    negative in the batch, 0 without any.
    """
    positive, negative = _positives(labels), _negatives(labels)
    farthest = _largest(distances.masked_fill(~positive, -_FAR))  # [B]
    nearest = -_largest((-distances).masked_fill(~negative, -_FAR))
    return _mean(relu(farthest - nearest + margin), positive.any(axis=1) & negative.any(axis=1))


def semi_hard_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the triplet loss of every positive pair with a semi-hard negative (arXiv 1503.03832, sec. 3.2).

    That is the nearest negative of those farther from the anchor than the positive; where none is, the
    farthest of all. It is the mean over the ordered pairs of a class, 0 without any.
    """
    positive, negative = _positives(labels), _negatives(labels)
    anchor, other = _places(positive & negative.any(axis=1, keepdim=True))  # [P] each
    if not len(anchor):
        return distances.sum() * 0
    own = distances.gather_nd(paddle.stack([anchor, other], axis=1))  # [P]
    rivals = distances.gather(anchor)  # [P,B]
    rivals_count = negative.gather(anchor)
    farther = rivals_count & (rivals > own.unsqueeze(1))
    nearest = -_largest((-rivals).masked_fill(~farther, -_FAR))
    farthest = _largest(rivals.masked_fill(~rivals_count, -_FAR))
    chosen = paddle.where(farther.any(axis=1), nearest, farthest)
    return relu(own - chosen + margin).mean()


def quadruplet_loss(
    distances: Tensor, labels: Tensor, first_margin: Tensor | float, second_margin: Tensor | float
) -> Tensor:
    """Return the quadruplet loss over all combinations of the batch (arXiv 1704.01719, eq. 6).

    The mean of relu(d(i,j) - d(i,k) + first_margin) over images i, j of one class and k of another, and the
    mean of relu(d(i,j) - d(l,k) + second_margin) where l and k are of two further classes, added up. A term
    without any combination is 0.
    """
    pairs = _places(_positives(labels))
    apart = _places(_negatives(labels))
    if not len(pairs[0]) or not len(apart[0]):
        return distances.sum() * 0
    own = distances.gather_nd(paddle.stack(pairs, axis=1)).unsqueeze(1)  # [P,1]
    between = distances.gather_nd(paddle.stack(apart, axis=1)).unsqueeze(0)  # [1,N]
    anchor = pairs[0].unsqueeze(1)
    own_class = labels.gather(pairs[0]).unsqueeze(1)
    first, second = (labels.gather(side).unsqueeze(0) for side in apart)
    with_anchor = anchor == apart[0].unsqueeze(0)  # [P,N]
    unrelated = (first != own_class) & (second != own_class)
    difference = own - between
    return _mean(relu(difference + first_margin), with_anchor) + _mean(
        relu(difference + second_margin), unrelated
    )


def adaptive_margin(distances: Tensor, labels: Tensor) -> Tensor:
    """Return the mean distance between classes less that within, in this batch, as a constant.

    It is the adaptive margin of arXiv 1704.01719, eq. 7; 0 where the classes lie closer than their images.
    """
    distances = distances.detach()
    return relu(_mean(distances, _negatives(labels)) - _mean(distances, _positives(labels)))


def adaptive_quadruplet_loss(
    distances: Tensor, labels: Tensor, first_weight: float = 1.0, second_weight: float = 0.5
) -> Tensor:
    """Return the quadruplet loss whose margins are `adaptive_margin` times these weights."""
    margin = adaptive_margin(distances, labels)
    return quadruplet_loss(distances, labels, first_weight * margin, second_weight * margin)


def margin_sample_mining_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return relu(largest d within a class - smallest d between two + margin) (arXiv 1710.00478).

    One number a batch, of one pair each, which need not share an image. PaddlePaddle's metric learning calls
    this a quadruplet loss. It is 0 in a batch without positives or without negatives.
    """
    positive, negative = _positives(labels), _negatives(labels)
    farthest = _largest(distances.masked_fill(~positive, -_FAR).reshape([1, -1]))
    nearest = -_largest((-distances).masked_fill(~negative, -_FAR).reshape([1, -1]))
    return relu(farthest - nearest + margin).sum() * float(positive.any() & negative.any())


class SoftmaxLoss(nn.Layer):
    """A linear classifier on the embedding and its cross-entropy; the classifier serves training alone."""

    def __init__(self, embed_dim: int, num_classes: int, smoothing: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(embed_dim, num_classes)
        self.smoothing = smoothing

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `softmax` from `outputs["image"]` [B,D], not normalised, and the batch's `label` [B]."""
        logits = self.classifier(outputs["image"])
        loss = smoothed_softmax_loss(logits, batch["label"], self.smoothing)
        return {"softmax": loss * share_weight(len(logits))}


class TripletLoss(nn.Layer):
    """The triplet loss of a batch whose rows are anchor, positive, negative, and so on."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `triplet` from `outputs["image"]` [3N,D], which is l2-normalised first."""
        rows = l2norm(outputs["image"]).reshape([-1, 3, outputs["image"].shape[1]])  # [N,3,D]
        loss = triplet_loss(rows[:, 0], rows[:, 1], rows[:, 2], self.margin)
        return {"triplet": loss * share_weight(len(rows))}


class MinedLoss(nn.Layer):
    """A loss that chooses its pairs from all of a batch, by class and distance.

    `gather` brings the rows of the batch together, as `gather_rows` does from all processes.
    """

    def __init__(self, name: str, distance_loss: DistanceLoss, gather: Gather = own_rows) -> None:
        super().__init__()
        self.name = name
        self.distance_loss = distance_loss
        self.gather = gather

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the loss under its name, from `outputs["image"]` [B,D], which is l2-normalised first."""
        (rows,), (labels,) = self.gather(l2norm(outputs["image"])), self.gather(batch["label"])
        return {self.name: self.distance_loss(squared_distances(rows), labels)}


def _positives(labels: Tensor) -> Tensor:
    """Return bool [B,B], true for two different images of one class."""
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    return same & ~paddle.eye(labels.shape[0], dtype="int32").astype("bool")


def _negatives(labels: Tensor) -> Tensor:
    """Return bool [B,B], true for two images of different classes."""
    return labels.unsqueeze(0) != labels.unsqueeze(1)


def _places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column [N] of every true place of `mask` [B,B]."""
    found = paddle.nonzero(mask)  # [N,2]
    return found[:, 0], found[:, 1]


def _largest(values: Tensor) -> Tensor:
    """Return the largest value [N] of each row of `values` [N,M]; of equals, the first has the gradient."""
    where = values.detach().argmax(axis=1, keepdim=True)
    return paddle.take_along_axis(values, where, axis=1).squeeze(1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is true, 0 where it nowhere is."""
    kept = mask.astype(values.dtype)
    return (values * kept).sum() / kept.sum().clip(min=1.0)
