"""Oscar's retrieval in plain PyTorch, with the computations of the original (microsoft/Oscar): a baseline.

Every pair is padded to 70 tokens and 50 regions and encoded by itself, in batches of eight. Modules and
parameters have the original's names. Two things are faster than in the original: gelu is PyTorch's own, and
the layers' outputs are not collected. Tokenization and the decoding of features are not part of the race;
prepare_pairs.py compares them.
`python _twin_oscar.py TASK oscar FOLDER` is the twin's side of a race.
"""

from _oscar_corpus import BERT_WORDS, cross_pairs, open_corpus
from _race import SETTINGS, measure_steps
from _twins import run
from prepare_pairs import REGIONS, TOKENS, WIDTH

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from datasets.pair_dataset import PairDataset
from datasets.samplers.pairs import PairSampler
from datasets.pairs import Pairs
from engine.weights.bert_names import original_names

NORM_EPSILON, MASKED = 1e-12, -10000.0
RATE, DECAY, EPSILON, BETAS, LARGEST_NORM = 2e-5, 0.05, 1e-8, (0.9, 0.999), 1.0


@dataclass(frozen=True)
class Sizes:
    """The sizes of Oscar; the defaults are those of BERT-base."""

    vocab_size: int = BERT_WORDS
    dim: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    positions: int = 512
    region_dim: int = WIDTH
    dropout: float = 0.1


class Embeddings(nn.Module):
    """The sum of word, position and segment embeddings, normalised."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.dim)
        self.token_type_embeddings = nn.Embedding(2, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, NORM_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [B,T,D] of tokens `ids` [B,T] in `segments` [B,T]."""
        positions = self.position_embeddings(torch.arange(ids.shape[1]).expand_as(ids))
        vectors = self.word_embeddings(ids) + positions + self.token_type_embeddings(segments)
        return self.dropout(self.LayerNorm(vectors))


class SelfAttention(nn.Module):
    """Multi-head self-attention with an additive mask."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(sizes.dim, sizes.dim) for _ in range(3))
        self.dropout = nn.Dropout(sizes.dropout)
        self.heads = sizes.heads

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the context [B,L,D] of `x` [B,L,D]; `mask` [B,1,1,L] is added to the scores."""
        query, key, value = (self.split(part(x)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / (x.shape[2] // self.heads) ** 0.5 + mask  # [B,H,L,L]
        context = self.dropout(functional.softmax(scores, dim=-1)) @ value
        return context.permute(0, 2, 1, 3).reshape(x.shape)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows `x` [B,L,D] by head, [B,H,L,D/H]."""
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)


class Output(nn.Module):
    """A linear map, dropout, the residual and a layer norm."""

    def __init__(self, in_dim: int, sizes: Sizes) -> None:
        super().__init__()
        self.dense = nn.Linear(in_dim, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, NORM_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Layer(nn.Module):
    """A transformer layer: self-attention and a feed-forward network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        attention = {"self": SelfAttention(sizes), "output": Output(sizes.dim, sizes)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.dim, sizes.inner)})
        self.output = Output(sizes.inner, sizes)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        attended = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(functional.gelu(self.intermediate["dense"](attended)), attended)


class Bert(nn.Module):
    """BERT over texts and regions, with a pooler of the first row."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(sizes.dim, sizes.dim)})
        self.img_embedding = nn.Linear(sizes.region_dim, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, NORM_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, ids: torch.Tensor, segments: torch.Tensor, mask: torch.Tensor, regions: torch.Tensor
    ) -> torch.Tensor:
        """Return the pooled first row [B,D]; `mask` [B,T+R] is 1 at tokens and regions, and 0 at padding."""
        seen = self.dropout(self.LayerNorm(self.img_embedding(regions)))
        x = torch.cat([self.embeddings(ids, segments), seen], dim=1)
        added = (1.0 - mask.to(x.dtype))[:, None, None] * MASKED
        for layer in self.encoder["layer"]:
            x = layer(x, added)
        return torch.tanh(self.pooler["dense"](x[:, 0]))


class Oscar(nn.Module):
    """A classifier of pairs: whether a caption matches an image."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.bert = Bert(sizes)
        self.dropout = nn.Dropout(sizes.dropout)
        self.classifier = nn.Linear(sizes.dim, 2)

    def forward(
        self, ids: torch.Tensor, segments: torch.Tensor, mask: torch.Tensor, regions: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits [B,2] of a batch, whose parts are those of `Bert.forward`."""
        return self.classifier(self.dropout(self.bert(ids, segments, mask, regions)))

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Load our model's weights, whose linear maps are [in,out], and keys and values one matrix."""
        parameters = dict(self.named_parameters())
        for name, array in weights.items():
            if array.ndim == 2 and not name.startswith("bert.embeddings."):
                array = array.T
            originals = original_names(name)
            for original, part in zip(originals, np.split(array, len(originals)), strict=True):
                parameters.pop(original).data.copy_(torch.from_numpy(part))
        assert not parameters, sorted(parameters)


class AdamW:
    """AdamW of pytorch-transformers 1.0.0: epsilon without bias correction, weight decay after the step."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.parameters = [
            (parameter, torch.zeros_like(parameter), torch.zeros_like(parameter), is_decayed(name))
            for name, parameter in model.named_parameters()
        ]

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        beta1, beta2 = BETAS
        size = self.rate * (1 - beta2**self.steps) ** 0.5 / (1 - beta1**self.steps)
        for parameter, mean, square, decayed in self.parameters:
            mean.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            parameter.addcdiv_(mean, square.sqrt().add_(EPSILON), value=-size)
            if decayed:
                parameter.add_(parameter, alpha=-self.rate * DECAY)


def is_decayed(name: str) -> bool:
    return "bias" not in name and "LayerNorm.weight" not in name


def pad(batch: dict[str, np.ndarray], tokens: int, regions: int) -> tuple[torch.Tensor, ...]:
    """Return the padded ids, segments, mask and regions of a batch of pairs, with an image for each pair."""
    rows = batch["image_row"]
    counts = batch["num_regions"][rows]
    ids, segments = (
        np.pad(batch[name], [(0, 0), (0, tokens - batch[name].shape[1])])
        for name in ("token_ids", "segment_ids")
    )
    mask = [np.arange(tokens) < batch["text_len"][:, None], np.arange(regions) < counts[:, None]]
    seen = batch["regions"][rows]
    seen = np.pad(seen, [(0, 0), (0, regions - seen.shape[1]), (0, 0)])
    return tuple(map(torch.from_numpy, (ids, segments, np.concatenate(mask, axis=1), seen)))


def train_step(model: Oscar, optimizer: AdamW, inputs: Iterable[torch.Tensor], match: np.ndarray) -> float:
    """Train on one batch; return its loss."""
    loss = functional.cross_entropy(model(*inputs), torch.from_numpy(match))
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
    optimizer.step()
    return loss.item()


def match_scores(logits: torch.Tensor) -> torch.Tensor:
    """Return the scores [B] of pairs with `logits` [B,2], which order pairs as the probabilities do."""
    return logits[:, 1] - logits[:, 0]


class OscarTwin:
    """The model with its data, as a side of a race."""

    def __init__(self, folder: Path) -> None:
        self.dataset: PairDataset = open_corpus(folder)
        self.setting = SETTINGS["oscar"]
        self.model = Oscar(Sizes())

    def load(self, weights: dict[str, np.ndarray]) -> None:
        self.model.load_weights(weights)

    def inputs(self, pairs: Pairs) -> tuple[dict[str, np.ndarray], tuple[torch.Tensor, ...]]:
        batch = self.dataset.batch(pairs)
        return batch, pad(batch, TOKENS, REGIONS)

    def train(self) -> None:
        """Train on a positive and a negative pair for each caption; all pairs are padded to one length."""
        optimizer = AdamW(self.model, RATE)
        batches = PairSampler(self.dataset, self.setting.batch, seed=0, bucket=False).batches(epoch=0)
        alike = np.ones(self.setting.batch)
        for pairs in measure_steps(batches, self.setting, lambda pairs: alike, 1.0):
            batch, inputs = self.inputs(pairs)
            train_step(self.model, optimizer, inputs, batch["match"])

    def encode(self) -> np.ndarray:
        """Return the scores [P] of the pairs of a cross evaluation, image by image."""
        self.model.eval()
        with torch.no_grad():
            logits = [
                self.model(*self.inputs(pairs)[1])
                for pairs in cross_pairs(self.dataset).batches(self.setting.batch)
            ]
        return match_scores(torch.cat(logits)).numpy()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[3]), lambda: OscarTwin(Path(sys.argv[3])))
