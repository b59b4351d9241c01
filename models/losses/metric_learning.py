"""Losses of metric learning on a batch of image embeddings [B,D] and their labels [B].

Distances are squared Euclidean distances. `labels` are integers [B], one for each class.
"""

from collections.abc import Callable

import paddle
from paddle import Tensor, nn
from paddle.nn.functional import log_softmax, relu

from models.encoders import l2norm
from models.gathering import Gather, own_rows, share_weight

DistanceLoss = Callable[[Tensor, Tensor], Tensor]  # distances [B,B] and labels [B] -> a scalar

_FAR = 1e9  # larger than any distance


def squared_distances(embeddings: Tensor) -> Tensor:
    """Return the squared Euclidean distances [B,B] between `embeddings` [B,D]."""
    squares = (embeddings * embeddings).sum(axis=1)  # [B]
    products = embeddings @ embeddings.T
    return relu(squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * products)  # rounding may make it negative


def smoothed_softmax_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `logits` [B,C] with smoothed `labels` [B] (arXiv 1512.00567, sec. 7).

    `smoothing` is the share of the target that is spread evenly over all C classes.
    """
    log_probability = log_softmax(logits, axis=1)
    own = paddle.take_along_axis(log_probability, labels.unsqueeze(1), axis=1)  # [B,1]
    return -((1 - smoothing) * own.mean() + smoothing * log_probability.mean())


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean of relu(d(anchor, positive) - d(anchor, negative) + margin) (arXiv 1503.03832, eq. 2).

    All three are [N,D], with a triplet in each row; d is the squared Euclidean distance.
    """
    to_positive = ((anchor - positive) ** 2).sum(axis=1)  # [N]
    to_negative = ((anchor - negative) ** 2).sum(axis=1)
    return relu(to_positive - to_negative + margin).mean()


def batch_hard_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the triplet loss with each image's farthest positive and nearest negative.

    This is batch-hard mining (arXiv 1703.07737, eq. 5). The loss is averaged over the images that have a
    positive and a negative in the batch, and 0 if there is none.
    """
    positive, negative = _positives(labels), _negatives(labels)
    farthest = _largest(distances.masked_fill(~positive, -_FAR))  # [B]
    nearest = -_largest((-distances).masked_fill(~negative, -_FAR))
    return _mean(relu(farthest - nearest + margin), positive.any(axis=1) & negative.any(axis=1))


def semi_hard_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the triplet loss of every positive pair with a semi-hard negative (arXiv 1503.03832, sec. 3.2).

    The semi-hard negative is the nearest of the negatives that are farther from the anchor than the positive;
    if there is none, it is the farthest negative. The loss is averaged over the ordered positive pairs whose
    anchor has a negative, and 0 if there is no such pair.
    """
    positive, negative = _positives(labels), _negatives(labels)
    anchor, other = _places(positive & negative.any(axis=1, keepdim=True))  # [P] each
    if not len(anchor):
        return distances.sum() * 0
    own = distances.gather_nd(paddle.stack([anchor, other], axis=1))  # [P]
    to_others = distances.gather(anchor)  # [P,B]
    is_negative = negative.gather(anchor)
    farther = is_negative & (to_others > own.unsqueeze(1))
    nearest = -_largest((-to_others).masked_fill(~farther, -_FAR))
    farthest = _largest(to_others.masked_fill(~is_negative, -_FAR))
    chosen = paddle.where(farther.any(axis=1), nearest, farthest)
    return relu(own - chosen + margin).mean()


def quadruplet_loss(
    distances: Tensor, labels: Tensor, first_margin: Tensor | float, second_margin: Tensor | float
) -> Tensor:
    """Return the quadruplet loss over all combinations of the batch (arXiv 1704.01719, eq. 6).

    It is the sum of two means: that of relu(d(i,j) - d(i,k) + first_margin) over images i, j of one class and
    k of another, and that of relu(d(i,j) - d(l,k) + second_margin) where l and k are of two further classes.
    A mean over no combinations is 0.
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
    """Return the adaptive margin of a batch, without gradient (arXiv 1704.01719, eq. 7).

    It is the mean distance between images of different classes minus that between images of one class, or 0
    if the difference is negative.
    """
    distances = distances.detach()
    return relu(_mean(distances, _negatives(labels)) - _mean(distances, _positives(labels)))


def adaptive_quadruplet_loss(
    distances: Tensor, labels: Tensor, first_weight: float = 1.0, second_weight: float = 0.5
) -> Tensor:
    """Return the quadruplet loss with `adaptive_margin` times the two weights as margins."""
    margin = adaptive_margin(distances, labels)
    return quadruplet_loss(distances, labels, first_weight * margin, second_weight * margin)


def margin_sample_mining_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return relu(largest d within a class - smallest d between classes + margin) (arXiv 1710.00478).

    Both are over the whole batch; the two pairs need not share an image. PaddlePaddle's metric learning calls
    this a quadruplet loss. It is 0 for a batch without positives or without negatives.
    """
    positive, negative = _positives(labels), _negatives(labels)
    farthest = _largest(distances.masked_fill(~positive, -_FAR).reshape([1, -1]))
    nearest = -_largest((-distances).masked_fill(~negative, -_FAR).reshape([1, -1]))
    return relu(farthest - nearest + margin).sum() * float(positive.any() & negative.any())


class SoftmaxLoss(nn.Layer):
    """The cross-entropy of a linear classifier on the embedding; the classifier is used in training alone."""

    def __init__(self, embed_dim: int, num_classes: int, smoothing: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(embed_dim, num_classes)
        self.smoothing = smoothing

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `softmax` from `outputs["image"]` [B,D], which are not normalised, and `label` [B]."""
        logits = self.classifier(outputs["image"])
        loss = smoothed_softmax_loss(logits, batch["label"], self.smoothing)
        return {"softmax": loss * share_weight(len(logits))}


class TripletLoss(nn.Layer):
    """The triplet loss of a batch whose rows are anchor, positive, negative, anchor, and so on."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return `triplet` from `outputs["image"]` [3N,D], which are l2-normalised first."""
        rows = l2norm(outputs["image"]).reshape([-1, 3, outputs["image"].shape[1]])  # [N,3,D]
        loss = triplet_loss(rows[:, 0], rows[:, 1], rows[:, 2], self.margin)
        return {"triplet": loss * share_weight(len(rows))}


class MinedLoss(nn.Layer):
    """A loss that mines its pairs from the whole batch, by class and distance.

    `gather` returns the rows to mine from: `own_rows`, or `gather_rows` for those of all processes.
    """

    def __init__(self, name: str, distance_loss: DistanceLoss, gather: Gather = own_rows) -> None:
        super().__init__()
        self.name = name
        self.distance_loss = distance_loss
        self.gather = gather

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the loss, under `name`, from `outputs["image"]` [B,D], which are l2-normalised first."""
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
    """Return the rows [N] and the columns [N] where `mask` [B,B] is true."""
    found = paddle.nonzero(mask)  # [N,2]
    return found[:, 0], found[:, 1]


def _largest(values: Tensor) -> Tensor:
    """Return the largest value [N] of each row of `values` [N,M]; among ties, the first has the gradient.

    Paddle's `max` divides the gradient among ties.
    """
    where = values.detach().argmax(axis=1, keepdim=True)
    return paddle.take_along_axis(values, where, axis=1).squeeze(1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is true; 0 if it is true nowhere."""
    kept = mask.astype(values.dtype)
    return (values * kept).sum() / kept.sum().clip(min=1.0)
