"""The evaluation of VSE++ as a process of its own: `python _twin_evaluation.py FOLDER OUT.json`.

It computes what the original's evaluation does (fartashf/vsepp, `evalrank`): captions are split by NLTK, a
DataLoader makes batches of 128, longest captions first, each caption's image is encoded with it, and every
query's scores are sorted whole. The folder has the test split as arrays and lines, the vocabulary, and the
weights. The loader has no workers.
"""

from _race import VOCABULARY, WEIGHTS
from _twins import EMBED_DIM, WORD_DIM, GRUText, l2norm

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nltk.tokenize import NLTKWordTokenizer

from datasets.words.vocabulary import Vocabulary
from engine.runtime import usable_cores

BATCH, TEXTS = 128, 5
# Our names of the twin's parameters, in its order.
NAMES = ["image_encoder.fc.weight", "image_encoder.fc.bias", "text_encoder.embed.weight"]
NAMES += [f"text_encoder.rnn.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


class Split(torch.utils.data.Dataset):
    """The captions of the test split with their images."""

    def __init__(self, folder: Path) -> None:
        self.captions = (folder / "test_caps.txt").read_text(encoding="utf-8").splitlines()
        self.features = np.load(folder / "test_ims.npy").astype(np.float32)
        self.vocabulary, self.split = Vocabulary.load(folder / VOCABULARY), NLTKWordTokenizer().tokenize
        self.ids = {word: number for number, word in enumerate(self.vocabulary.words)}

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        words = ["<start>", *self.split(self.captions[index].lower()), "<end>"]
        ids = torch.tensor([self.ids.get(word, self.ids["<unk>"]) for word in words])
        return torch.from_numpy(self.features[index // TEXTS]), ids, index


def collate(items: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Return features [B,F], tokens [B,T] padded with 0, lengths [B] and indices, the longest first."""
    features, tokens, indices = zip(*sorted(items, key=lambda item: -len(item[1])), strict=True)
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return torch.stack(features), padded, torch.tensor([len(each) for each in tokens]), list(indices)


def encode(folder: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings [captions,D] of the images and of the captions."""
    image = torch.nn.Linear(split.features.shape[1], EMBED_DIM)
    text = GRUText(len(split.vocabulary), WORD_DIM, EMBED_DIM)
    stored = dict(np.load(folder / WEIGHTS))
    for parameter, name in zip([*image.parameters(), *text.parameters()], NAMES, strict=True):
        array = stored[name].T if name == "image_encoder.fc.weight" else stored[name]
        parameter.data.copy_(torch.from_numpy(array))
    images, captions = np.empty((2, len(split), EMBED_DIM), np.float32)
    with torch.no_grad():
        for features, tokens, lengths, rows in torch.utils.data.DataLoader(split, BATCH, collate_fn=collate):
            images[rows] = l2norm(image(features)).numpy()
            captions[rows] = text(tokens, lengths).numpy()
    return images, captions


def image_to_text(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return the rank of each image's best caption, from 0."""
    ranks = np.empty(len(images))
    for row, image in enumerate(images):
        order = np.argsort(image @ captions.T)[::-1]
        ranks[row] = min(np.where(order == TEXTS * row + text)[0][0] for text in range(TEXTS))
    return ranks


def text_to_image(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return the rank of each caption's image, from 0."""
    ranks = np.empty(len(captions))
    for row in range(len(images)):
        scores = captions[TEXTS * row : TEXTS * (row + 1)] @ images.T
        for text, order in enumerate(np.argsort(scores, axis=1)[:, ::-1]):
            ranks[TEXTS * row + text] = np.where(order == row)[0][0]
    return ranks


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    torch.set_num_threads(usable_cores())
    images, captions = encode(folder, Split(folder))
    images = images[::TEXTS]
    ranks = {"i2t": image_to_text(images, captions), "t2i": text_to_image(images, captions)}
    recalls = {
        f"{way}_r{depth}": 100 * float((found < depth).mean())
        for way, found in ranks.items()
        for depth in (1, 5, 10)
    }
    out.write_text(json.dumps(recalls), encoding="utf-8")


if __name__ == "__main__":
    main()
