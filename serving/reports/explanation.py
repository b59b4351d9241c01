"""Explain a model's score of an image and a sentence: by its graph's affinities and by occlusion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from config.errors import UserError
from datasets.build.words import Words
from datasets.features.store import ImageRegions
from datasets.words.packed_tokens import PackedTokens
from datasets.words.vocabulary import Vocabulary
from engine.evaluation.occlusion import Relevance, measure_relevance
from engine.evaluation.protocol import evaluation_mode, tensors_of
from engine.ranking.metrics import ranks
from serving.splits.split_searcher import SplitSearcher


@dataclass(frozen=True)
class Sentence:
    """A sentence as the model reads it: token ids with markers, words, and the places of the words' ids."""

    text: str
    token_ids: list[int]
    words: list[str]
    places: range


@dataclass(frozen=True)
class JudgedCaption:
    """A sentence about an image, its score with the image, and the rank (from 1) of the image for it.

    `origin` is "asked" (the user's), "true" (the image's own) or "generated" (written by the model). The rank
    is among all images of the split.
    """

    origin: str
    text: str
    score: float
    rank: int


@dataclass(frozen=True)
class Explanation:
    """The explanation of a model's score of one image and one sentence.

    `listening` float [R,R] sums to 1: row i, column j is how strongly region i listens to region j, as a
    share of all listening in the graph. It is None for a model without a graph. `captions` are the sentences
    to compare with.
    """

    image_id: str
    sentence: Sentence
    relevance: Relevance
    listening: np.ndarray | None
    captions: list[JudgedCaption]


def explain(searcher: SplitSearcher, row: int, regions: ImageRegions, text: str | None = None) -> Explanation:
    """Explain the score of the image in `row` of the searcher's split with the sentence `text`.

    Without `text`, the image's own first caption is taken. Raises UserError for a sentence without words, and
    without `text` for an image without captions.
    """
    dataset = searcher.dataset
    vocabulary, image_id = dataset.vocabulary, dataset.image_ids[row]
    features = np.asarray(regions.features, np.float32)
    own = list(
        dict.fromkeys(dataset.captions[place] for place in np.flatnonzero(dataset.caption_image == row))
    )
    if text is None and not own:
        raise UserError(f"image {image_id} has no caption; give a sentence with --text")
    sentence = read_sentence(own[0] if text is None else text, vocabulary)
    captions = [("true", read_sentence(caption, vocabulary)) for caption in own]
    if text is not None and text not in own:
        captions.insert(0, ("asked", sentence))
    captions += [("generated", written) for written in _write_caption(searcher.model, features, vocabulary)]
    return Explanation(
        image_id,
        sentence,
        measure_relevance(searcher.model, features, sentence.token_ids, sentence.places),
        graph_listening(searcher.model, features),
        [judge(searcher, image_id, origin, caption) for origin, caption in captions],
    )


def read_sentence(text: str, vocabulary: Words) -> Sentence:
    """Return the sentence `text` as the model reads it; raise UserError if it has no words."""
    tokens = vocabulary.tokens(text)
    if not tokens:
        raise UserError("--text: expected a sentence, got none; write it in quotes")
    words = [token if vocabulary.knows(token) else f"{token} (unknown)" for token in tokens]
    first = 0 if vocabulary.start_id is None else 1
    return Sentence(text, vocabulary.encode(text), words, range(first, first + len(words)))


def judge(searcher: SplitSearcher, image_id: str, origin: str, sentence: Sentence) -> JudgedCaption:
    """Return a sentence with its score and the rank of the image among all; ties count against the image."""
    packed = PackedTokens.of([sentence.token_ids])
    batch = packed.batch(np.arange(1), searcher.dataset.vocabulary.pad_id)
    with evaluation_mode(searcher.model), paddle.no_grad():
        tensors = tensors_of(batch)
        embedding = searcher.model.encode_text(tensors).numpy()
    scores, ids = (found[0] for found in searcher.image_index.search(embedding, len(searcher.images)))
    rank = 1 + int(ranks(scores[None], [image_id], ids)[0])
    return JudgedCaption(origin, sentence.text, float(scores[ids == image_id].max()), rank)


def graph_listening(model: paddle.nn.Layer, features: np.ndarray) -> np.ndarray | None:
    """Return `listening_shares` of the model's graph for `features` [R,F]; None without a graph."""
    with evaluation_mode(model), paddle.no_grad():
        affinities = model.affinities(_image_batch(features))
    return listening_shares([affinity.numpy()[0] for affinity in affinities]) if affinities else None


def listening_shares(affinities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over graph blocks of the absolute affinities [R,R] (1909.02701, eq. 2), of sum 1.

    A region's affinity to itself is left out. The affinities of each block are divided by their sum, because
    their scale is that of the block's weights. The sign is dropped: it flips the direction of a message in a
    space without readable directions.
    """
    shares = []
    for affinity in affinities:
        strength = np.abs(affinity.astype(np.float64)) * (1 - np.eye(len(affinity)))
        shares.append(strength / max(strength.sum(), np.finfo(np.float64).tiny))
    return np.mean(shares, axis=0)


def _write_caption(model: paddle.nn.Layer, features: np.ndarray, vocabulary: Vocabulary) -> list[Sentence]:
    """Return the caption that the model generates, as a list of one; an empty list without a captioner."""
    if model.captioner is None:
        return []
    with evaluation_mode(model), paddle.no_grad():
        written = model.write_captions(_image_batch(features), model.captioner.max_len).numpy()[0].tolist()
    ids = written[: written.index(vocabulary.end_id)] if vocabulary.end_id in written else written
    # The ids are kept, not encoded from the text again, because a tokenizer would split "<unk>".
    framed = [vocabulary.start_id, *ids, vocabulary.end_id]
    words = [vocabulary.words[index] for index in ids]
    return [Sentence(" ".join(words), framed, words, range(1, 1 + len(words)))]


def _image_batch(features: np.ndarray) -> dict[str, paddle.Tensor]:
    return {"regions": paddle.to_tensor(features[None]), "num_regions": paddle.to_tensor([len(features)])}
