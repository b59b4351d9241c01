"""Oscar and VinVL: a BERT that scores how well a caption matches an image, given as object tags and regions.

Li et al. 2020, arXiv 2004.06165; Zhang et al. 2021, arXiv 2101.00529.
"""

import numpy as np
from paddle import Tensor, nn
from paddle.nn.functional import gelu

from models.bert import Bert, BertShape, linear

# Which of caption (C), tags (L, the labels) and regions (R) attend to each other; each attends to itself.
ATTENTION_TYPES = {"CLR": ("CL", "CR", "LR"), "CL": ("CL",), "CR": ("CR",), "LR": ("LR",)}
CLASSIFIERS = ("linear", "mlp")


def attention_between(attention: str) -> np.ndarray | None:
    """Return bool [3,3]: which of caption, tags, regions (rows) attends to which (columns); None: all to all.

    Raises ValueError if `attention` is not one of `ATTENTION_TYPES`.
    """
    if attention not in ATTENTION_TYPES:
        raise ValueError(f"attention: expected one of {sorted(ATTENTION_TYPES)}, got {attention!r}")
    if attention == "CLR":
        return None
    attends = np.eye(3, dtype=bool)
    for pair in ATTENTION_TYPES[attention]:
        one, other = ("CLR".index(letter) for letter in pair)
        attends[one, other] = attends[other, one] = True
    return attends


def build_classifier(kind: str, dim: int, num_labels: int, scale: int, deviation: float) -> nn.Layer:
    """Return the classifier of the pooled row: "linear", or an "mlp" with `scale` x `dim` hidden units.

    Raises ValueError for another `kind`.
    """
    if kind == "linear":
        return linear(dim, num_labels, deviation)
    if kind == "mlp":
        inner = scale * dim
        return nn.Sequential(linear(dim, inner, deviation), nn.ReLU(), linear(inner, num_labels, deviation))
    raise ValueError(f"classifier: expected one of {sorted(CLASSIFIERS)}, got {kind!r}")


class WordHead(nn.Layer):
    """The head of masked language modelling: linear map, gelu and layer norm, times the word embeddings."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.fc = linear(shape.hidden_dim, shape.hidden_dim, shape.initial_deviation)
        self.norm = nn.LayerNorm(shape.hidden_dim, shape.norm_epsilon)
        self.bias = self.create_parameter([shape.vocab_size], is_bias=True)

    def forward(self, rows: Tensor, word_vectors: Tensor) -> Tensor:
        """Return the logits [M,V] of the masked tokens' `rows` [M,D], given `word_vectors` [V,D]."""
        return self.norm(gelu(self.fc(rows))) @ word_vectors.T + self.bias


class Oscar(nn.Layer):
    """A cross encoder: a classifier of BERT's pooled first row scores pairs of a caption and an image.

    A text is `[CLS] caption [SEP] tags [SEP]`, of segment 0 up to the first [SEP] and 1 behind it.
    `num_labels` is 2 (no match, match), or 1 for a single value. `attention` is one of `ATTENTION_TYPES`.
    `feature_norm` standardises the regions' features first. With `guesses_words`, the model also predicts
    masked tokens.
    """

    def __init__(
        self,
        shape: BertShape,
        num_labels: int = 2,
        classifier: str = "linear",
        classifier_scale: int = 2,
        attention: str = "CLR",
        feature_norm: nn.Layer | None = None,
        guesses_words: bool = False,
    ) -> None:
        """Raise ValueError for an unknown classifier or attention, or if `num_labels` is neither 1 nor 2."""
        super().__init__()
        if num_labels not in (1, 2):
            raise ValueError(f"num_labels: expected 1 or 2, got {num_labels}")
        self.attends = attention_between(attention)
        self.feature_norm = feature_norm
        self.bert = Bert(shape)
        self.words = WordHead(shape) if guesses_words else None
        self.dropout = nn.Dropout(shape.dropout)
        self.classifier = build_classifier(
            classifier, shape.hidden_dim, num_labels, classifier_scale, shape.initial_deviation
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `logits` [P,num_labels] of a batch of P pairs, which `Bert.encode` describes.

        `add_masked_pairs` appends pairs with M masked tokens to the batch. For such a batch, the model also
        returns `word_logits` [M,V].
        """
        if self.feature_norm is not None:
            batch = {**batch, "regions": self.feature_norm(batch["regions"])}
        if self.words is None or "masked_pair" not in batch:
            return {"logits": self._classify(self.bert(batch, self.attends))}
        places = batch["masked_pair"], batch["masked_place"]
        pooled, hidden = self.bert.encode_parts(batch, len(batch["match"]), *places, self.attends)
        return {
            "logits": self._classify(pooled),
            "word_logits": self.words(hidden, self.bert.embeddings.words.weight),
        }

    def _classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(self.dropout(pooled))

    def score_pairs(self, batch: dict[str, Tensor]) -> Tensor:
        """Return each pair's score [P]: the log-odds of a match, or the single logit.

        The original's score is the probability of a match. Its order is the same, but in float32 the
        probabilities of all pairs with large log-odds round to 1, and tie.
        """
        return match_value(self(batch)["logits"])


def match_value(logits: Tensor) -> Tensor:
    """Return the score [P] of each pair: the single logit of [P,1], or the log-odds of a match of [P,2]."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
