"""Losses on the logits of scored pairs: does an image match a caption?"""

from collections.abc import Callable

from paddle import Tensor, nn
from paddle.nn import functional

from models.gathering import share_weight
from models.oscar import match_value


def match_cross_entropy(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax over no match and match (arXiv 2004.06165, 4.1).

    `logits` are [P,2], `match` [P] is 1 for pairs that match, else 0.
    """
    return functional.cross_entropy(logits, match)


def match_binary(logits: Tensor, match: Tensor) -> Tensor:
    """Return the binary cross-entropy of each logit's sigmoid, summed over the labels, mean over pairs.

    `logits` [P,2] have the target (1, 0) or (0, 1), `logits` [P,1] the `match` [P] itself.
    """
    if logits.shape[1] == 2:
        target = functional.one_hot(match, 2)
    else:
        target = match.astype(logits.dtype).unsqueeze(1)
    mean = functional.binary_cross_entropy_with_logits(logits, target.astype(logits.dtype))
    return mean * logits.shape[1]


def match_regression(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean squared distance of the one value [P,1] from `match` [P], 0 or 1."""
    return functional.mse_loss(logits.squeeze(1), match.astype(logits.dtype))


def match_choice(logits: Tensor, match: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax over each right pair and its N wrong ones.

    `logits` [B(1+N),2] or [B(1+N),1]: of B right pairs, then of the first wrong pair of each, and so on, with
    `match` 1 for the right ones and 0 for the others.
    """
    by_choice = match_value(logits).reshape([-1, int(match.sum())])
    return (by_choice.logsumexp(axis=0) - by_choice[0]).mean()


class MatchingLoss(nn.Layer):
    """One of these functions, as the trainer calls a loss: on a model's `logits` and a batch's `match`.

    word_weight: of the mean cross-entropy of the hidden words (Oscar's masked token loss, arXiv 2004.06165,
    eq. 1), where a batch has any.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], word_weight: float = 0.0) -> None:
        super().__init__()
        self.function, self.word_weight = function, word_weight

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the loss as `match` and, weighted, as `words`."""
        match = batch["match"]
        terms = {"match": self.function(outputs["logits"], match) * share_weight(len(match))}
        if "word_logits" in outputs:
            words = functional.cross_entropy(outputs["word_logits"], batch["masked_id"])
            terms["words"] = words * share_weight(len(batch["masked_id"])) * self.word_weight
        return terms
