"""VSRN in plain PyTorch, with the computations of the original (KunpengLi1994/VSRN): a baseline.

Parameters have the original's names, so the original's weights can be loaded. One error is corrected: the
original lists the decoder's parameters twice, so each step clips and updates them twice; here it does once.
`python _twin_vsrn.py TASK MODEL FOLDER` is the twin's side of a race.
"""

from _race import SETTINGS, WORD_DIM
from _twins import GRUText, Twin, hinge, l2norm, run

import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CAPTION_DIM, CAPTION_WORD_DIM, MAX_LEN, DROPOUT = 512, 300, 60, 0.2


class GraphReasoning(nn.Module):
    """One block of region reasoning, `v + BN(conv(R g))`, whose batch norm is 0 at first (eq. 2 to 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv1d(dim, dim, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))
        nn.init.zeros_(self.W[1].weight)
        nn.init.zeros_(self.W[1].bias)

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        """Return the regions [B,D,R] after the step, given `v` [B,D,R]."""
        relations = torch.bmm(self.theta(v).permute(0, 2, 1), self.phi(v)) / v.shape[2]  # [B,R,R]
        reasoned = torch.bmm(relations, self.g(v).permute(0, 2, 1))  # [B,R,D]
        return self.W(reasoned.permute(0, 2, 1).contiguous()) + v


class RegionEncoder(nn.Module):
    """A linear map of regions, four blocks of reasoning, and a GRU over the regions.

    With `flickr`, as in the released Flickr30K model, a batch norm follows the last state, and the mapped
    regions are not normalised.
    """

    def __init__(self, region_dim: int, dim: int, flickr: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(region_dim, dim)
        self.img_rnn = nn.GRU(dim, dim, batch_first=True)
        self.Rs_GCN_1, self.Rs_GCN_2, self.Rs_GCN_3, self.Rs_GCN_4 = (GraphReasoning(dim) for _ in range(4))
        self.flickr = flickr
        if flickr:
            self.bn = nn.BatchNorm1d(dim)

    def forward(self, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings [B,D] and the reasoned regions [B,R,D] of `regions` [B,R,F]."""
        mapped = self.fc(regions)
        if not self.flickr:
            mapped = l2norm(mapped)  # over the regions, as in the original
        mapped = mapped.permute(0, 2, 1)  # [B,D,R]
        for block in (self.Rs_GCN_1, self.Rs_GCN_2, self.Rs_GCN_3, self.Rs_GCN_4):
            mapped = block(mapped)
        reasoned = l2norm(mapped.permute(0, 2, 1))  # [B,R,D], over the regions again
        _, state = self.img_rnn(reasoned)
        embedding = self.bn(state[0]) if self.flickr else state[0]
        return l2norm(embedding), reasoned


class CaptionEncoder(nn.Module):
    """A linear map and a GRU over the reasoned regions."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.vid2hid = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, reasoned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rnn(self.dropout(self.vid2hid(reasoned)))


class Attention(nn.Module):
    """Additive attention of the decoder's state to the regions."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(2 * hidden, hidden)
        self.linear2 = nn.Linear(hidden, 1, bias=False)

    def forward(self, state: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Return the context [B,H] of `state` [B,H] among `encoded` regions [B,R,H]."""
        query = state.unsqueeze(1).repeat(1, encoded.shape[1], 1)
        pairs = torch.cat([encoded, query], dim=2)  # [B,R,2H]
        weights = functional.softmax(self.linear2(torch.tanh(self.linear1(pairs))).squeeze(2), dim=1)  # [B,R]
        return torch.bmm(weights.unsqueeze(1), encoded).squeeze(1)


class CaptionDecoder(nn.Module):
    """A decoder of captions, which always computes `max_len - 1` steps."""

    def __init__(self, vocab_size: int, hidden: int, word_dim: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, word_dim)
        self.attention = Attention(hidden)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.GRU(hidden + word_dim, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocab_size)
        self.max_len = max_len

    def forward(self, encoded: torch.Tensor, state: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [B,L-1,V] of the words after the first L-1 of `labels` [B,L+1]."""
        words = self.embedding(labels)
        steps = []
        for step in range(self.max_len - 1):
            context = self.attention(state.squeeze(0), encoded)
            word = self.dropout(torch.cat([words[:, step], context], dim=1)).unsqueeze(1)
            output, state = self.rnn(word, state)
            steps.append(functional.log_softmax(self.out(output.squeeze(1)), dim=1).unsqueeze(1))
        return torch.cat(steps, dim=1)


class Captioner(nn.Module):
    """The encoder of regions and the decoder of captions, with their loss."""

    def __init__(
        self, vocab_size: int, dim: int, hidden: int, word_dim: int, max_len: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder = CaptionEncoder(dim, hidden, dropout)
        self.decoder = CaptionDecoder(vocab_size, hidden, word_dim, max_len, dropout)

    def forward(self, reasoned: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.decoder(*self.encoder(reasoned), labels)

    def labels(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `tokens` [B,T] padded to [B,L+1], and a mask: 1 at the tokens and the first pad."""
        labels = functional.pad(tokens, (0, self.decoder.max_len + 1 - tokens.shape[1]))
        return labels, (torch.arange(labels.shape[1]) <= lengths.unsqueeze(1)).float()

    def loss(self, reasoned: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of the captions, summed and divided by the batch size."""
        labels, mask = self.labels(tokens, lengths)
        said = self(reasoned, labels)
        target, counts = labels[:, 1 : said.shape[1] + 1], mask[:, 1 : said.shape[1] + 1]
        each = functional.nll_loss(said.reshape(-1, said.shape[2]), target.reshape(-1), reduction="none")
        return (each * counts.reshape(-1)).sum() / len(said)


class VSRN(nn.Module):
    """The encoders of images and captions, and the caption decoder."""

    def __init__(
        self,
        vocab_size: int,
        region_dim: int = SETTINGS["vsrn"].features[-1],
        dim: int = SETTINGS["vsrn"].embed_dim,
        word_dim: int = WORD_DIM,
        caption_dim: int = CAPTION_DIM,
        caption_word_dim: int = CAPTION_WORD_DIM,
        max_len: int = MAX_LEN,
        dropout: float = DROPOUT,
        flickr: bool = True,
    ) -> None:
        super().__init__()
        self.img = RegionEncoder(region_dim, dim, flickr)
        self.txt = GRUText(vocab_size, word_dim, dim)
        self.cap = Captioner(vocab_size, dim, caption_dim, caption_word_dim, max_len, dropout)

    def losses(
        self, regions: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ranking and the caption loss of `regions` [B,R,F] and `tokens` [B,T] (longest first)."""
        image, reasoned = self.img(regions)
        ranking = hinge(image, self.txt(tokens, lengths), hardest=True)
        return ranking, self.cap.loss(reasoned, tokens, lengths)

    def loss(self, regions: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return sum(self.losses(regions, tokens, lengths))


class VSRNTwin(Twin):
    """The twin of VSRN, which encodes images alone, since captions are encoded as VSE++'s are."""

    def encode(self) -> np.ndarray:
        """Return the embeddings [images,D] of all images."""
        self.model.eval()
        features = torch.from_numpy(self.features)
        with torch.no_grad():
            parts = [self.model.img(part)[0] for part in features.split(self.setting.batch)]
        return torch.cat(parts).numpy()

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Load our image encoder's weights, where the 1x1 convolutions [out,in,1] are linear layers [in,out].

        The running statistics of batch norms keep their initial values.
        """
        parameters = dict(self.model.img.named_parameters())
        for name, parameter in parameters.items():
            array = weights[f"image_encoder.{our_name(name)}"]
            array = array.T if parameter.dim() > 1 and "rnn" not in name else array
            parameter.data.copy_(torch.from_numpy(array).reshape(parameter.shape))


def our_name(name: str) -> str:
    """Return the name in our image encoder of the parameter `name` of the original's."""
    name = re.sub(r"Rs_GCN_(\d)", lambda match: f"blocks.{int(match[1]) - 1}", name)
    for theirs, ours in {"W.0.": "out.", "W.1.": "norm.", "img_rnn.": "rnn.", "bn.": "norm."}.items():
        name = name.replace(theirs, ours)
    return name


if __name__ == "__main__":
    task, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run(task, folder, lambda: VSRNTwin(model, folder, VSRN))
