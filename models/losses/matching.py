"""Losses on the logits of scored pairs, which say whether an image matches a caption."""

from collections.abc import Callable

from paddle import Tensor, nn
from paddle.nn import functional

from models.gathering import share_weight
from models.oscar import match_value


def match_cross_entropy(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax over no match and match (arXiv 2004.06165, sec. 4.1).

    `logits` are [P,2]; `match` [P] is 1 for pairs that match, else 0.
    """
    return functional.cross_entropy(logits, match)


def match_binary(logits: Tensor, match: Tensor) -> Tensor:
    """Return the binary cross-entropy of each logit's sigmoid, summed over labels and averaged over pairs.

    The target of `logits` [P,2] is (1, 0) for no match and (0, 1) for a match, that of `logits` [P,1] is
    `match` [P] itself.
    """
    if logits.shape[1] == 2:
        target = functional.one_hot(match, 2)
    else:
        target = match.astype(logits.dtype).unsqueeze(1)
    mean = functional.binary_cross_entropy_with_logits(logits, target.astype(logits.dtype))
    return mean * logits.shape[1]


def match_regression(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean squared error of `logits` [P,1] against `match` [P], 0 or 1."""
    return functional.mse_loss(logits.squeeze(1), match.astype(logits.dtype))


def match_choice(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax over each positive pair and its N negative pairs.

    `logits` are [B(1+N),2] or [B(1+N),1]: first those of the B positive pairs, then those of the first
    negative pair of each, and so on. `match` [B(1+N)] is 1 for the positive pairs and 0 for the others.
    """
    by_choice = match_value(logits).reshape([-1, int(match.sum())])
    return (by_choice.logsumexp(axis=0) - by_choice[0]).mean()


class MatchingLoss(nn.Layer):
    """A loss for the trainer from a `function` of logits and `match`, one of those above.

    `word_weight` is the weight of Oscar's masked token loss (arXiv 2004.06165, eq. 1): the mean cross-entropy
    of the masked words, in batches that have some.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], word_weight: float = 0.0) -> None:
        super().__init__()
        self.function, self.word_weight = function, word_weight

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the matching loss as `match` and, if words are masked, their weighted loss as `words`."""
        match = batch["match"]
        terms = {"match": self.function(outputs["logits"], match) * share_weight(len(match))}
        if "word_logits" in outputs:
            words = functional.cross_entropy(outputs["word_logits"], batch["masked_id"])
            terms["words"] = words * share_weight(len(batch["masked_id"])) * self.word_weight
        return terms
