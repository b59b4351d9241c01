"""VSE++ and VSE in plain PyTorch, with the computations of the originals: baselines.

VSE++ (fartashf/vsepp) sorts the captions of a batch by length, and has a packed GRU and the hardest
negatives. VSE (linxd5/VSE_Pytorch) has batches of captions of one length, an LSTM and the sum of hinges. Both
use Adam and clip gradients to a global norm of 2, and an evaluation encodes an image once for each of its
captions. `python _twins.py TASK MODEL FOLDER` is the twin's side of a race; with a further argument
bfloat16, it trains under `torch.autocast`, as who has these originals would.
"""

from _race import BFLOAT16, SETTINGS, TWIN, VOCABULARY, WEIGHTS, WORD_DIM, measure_steps, measure_turns

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from datasets.words.vocabulary import Vocabulary
from engine.runtime import usable_cores

MARGIN, RATE, LARGEST_NORM = 0.2, 2e-4, 2.0
(FEATURE_DIM,), EMBED_DIM = SETTINGS["vsepp"].features, SETTINGS["vsepp"].embed_dim  # the same for VSE


def l2norm(x: torch.Tensor) -> torch.Tensor:
    return x / x.pow(2).sum(dim=1, keepdim=True).sqrt()


class GRUText(nn.Module):
    """The caption encoder of VSE++ and VSRN: word embeddings and a packed GRU."""

    def __init__(self, vocab_size: int, word_dim: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.rnn = nn.GRU(word_dim, dim, batch_first=True)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [B,D] of captions `tokens` [B,T], the longest first."""
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True)
        outputs, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)  # [B,T,D]
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, outputs.shape[2])
        return l2norm(outputs.gather(1, last).squeeze(1))


class VSEPP(nn.Module):
    """VSE++: a linear map of images and a packed GRU, trained on the hardest negatives."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURE_DIM, EMBED_DIM)
        self.text = GRUText(vocab_size, WORD_DIM, EMBED_DIM)

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """Return the embeddings [B,D] of `features` [B,F] and of `tokens` [B,T], the longest first."""
        return l2norm(self.fc(features)), self.text(tokens, lengths)

    def loss(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return hinge(*self(features, tokens, lengths), hardest=True)


class VSE(nn.Module):
    """VSE: a linear map of images and an LSTM over captions of one length, trained on the sum of hinges."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURE_DIM, EMBED_DIM)
        self.embedding = nn.Embedding(vocab_size, WORD_DIM)
        self.lstm = nn.LSTM(WORD_DIM, EMBED_DIM)

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """Return the embeddings [B,D] of `features` [B,F] and of `tokens` [B,T]."""
        _, (hidden, _) = self.lstm(self.embedding(tokens.t()))
        return l2norm(self.linear(features)), l2norm(hidden.squeeze(0))

    def loss(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return hinge(*self(features, tokens, lengths), hardest=False)


def hinge(image: torch.Tensor, text: torch.Tensor, hardest: bool) -> torch.Tensor:
    """Return the hinge ranking loss, summed over the `hardest` or over all negatives; rows i match."""
    scores = image @ text.t()
    own = scores.diag().view(-1, 1)
    diagonal = torch.eye(len(scores), dtype=torch.bool)
    text_cost = (MARGIN + scores - own).clamp(min=0).masked_fill(diagonal, 0)
    image_cost = (MARGIN + scores - own.t()).clamp(min=0).masked_fill(diagonal, 0)
    if hardest:
        text_cost, image_cost = text_cost.max(1)[0], image_cost.max(0)[0]
    return text_cost.sum() + image_cost.sum()


class Twin:
    """A model with its data and optimizer, as a side of a race."""

    def __init__(self, name: str, folder: Path, build_model: Callable[[int], nn.Module]) -> None:
        lines = (folder / "train_caps.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        self.setting = SETTINGS[name]
        self.captions = [vocabulary.encode(line) for line in lines]
        self.lengths = np.array([len(caption) for caption in self.captions])
        self.features = np.load(folder / "train_ims.npy")
        self.same_length = name == "vse"
        self.model = build_model(len(vocabulary))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def batches(self, order: np.ndarray) -> list[np.ndarray]:
        """Return batches of captions in this `order`, sorted by length within; VSE's have one length each."""
        groups = [order]
        if self.same_length:
            groups = [order[self.lengths[order] == length] for length in np.unique(self.lengths)]
        size = self.setting.batch
        batches = [group[start : start + size] for group in groups for start in range(0, len(group), size)]
        return [batch[np.argsort(-self.lengths[batch], kind="stable")] for batch in batches]

    def collate(self, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features [B,F], tokens [B,T] padded with 0, and lengths [B]."""
        lengths = torch.from_numpy(self.lengths[batch])
        tokens = torch.zeros(len(batch), int(lengths[0]), dtype=torch.long)
        for row, index in enumerate(batch):
            tokens[row, : lengths[row]] = torch.tensor(self.captions[index])
        images = batch * len(self.features) // len(self.captions)
        return torch.from_numpy(self.features[images]), tokens, lengths

    def train(self) -> None:
        random = np.random.default_rng(0)
        batches = self.batches(random.permutation(len(self.captions)))
        order = random.permutation(len(batches))
        mean_length = float(self.lengths.mean())
        batches = [batches[index] for index in order]
        for batch in measure_steps(batches, self.setting, lambda rows: self.lengths[rows], mean_length):
            with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16 in sys.argv[4:]):
                loss = self.model.loss(*self.collate(batch))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_NORM)
            self.optimizer.step()
            loss.item()  # as in the originals, which log the loss

    def encode(self) -> np.ndarray:
        """Return the embeddings [captions,D] of all captions; each caption's image is encoded, too."""
        self.model.eval()
        embeddings = np.empty((len(self.captions), EMBED_DIM), np.float32)
        with torch.no_grad():
            for batch in self.batches(np.arange(len(self.captions))):
                image, text = self.model(*self.collate(batch))
                image.numpy()
                embeddings[batch] = text.numpy()
        return embeddings

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Load our model's weights; both models have image map, word embeddings and RNN in this order."""
        parameters = list(self.model.parameters())
        for parameter, (name, array) in zip(parameters, weights.items(), strict=True):
            array = array.T if name == "image_encoder.fc.weight" else array
            parameter.data.copy_(torch.from_numpy(array))


def run(task: str, folder: Path, make_twin: Callable[[], Twin]) -> None:
    """Run the twin's side of a race: `task` train, or else a comparison of results with ours."""
    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)
    twin = make_twin()
    if task == "train":
        twin.train()
    else:
        twin.load(dict(np.load(folder / WEIGHTS)))
        measure_turns(twin.encode, folder / TWIN)


def main() -> None:
    task, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run(task, folder, lambda: Twin(name, folder, {"vsepp": VSEPP, "vse": VSE}[name]))


if __name__ == "__main__":
    main()
