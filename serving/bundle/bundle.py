"""Opens a bundle and encodes texts, features and pictures, or scores pairs, as the trained model does."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError, cut
from config.files.bundles import DESCRIPTION_FILE, identity_of, read_description
from datasets.pairs import Pairs
from datasets.words.packed_tokens import PackedTokens
from datasets.words.sentences import cut_sentence, encode_sentences
from datasets.words.vocabulary import Vocabulary
from serving.bundle.graph import Graph
from serving.bundle.inputs import checked_features, mean_of_regions

if TYPE_CHECKING:
    from PIL import Image

    from serving.bundle.pictures import PicturePreparation

RunGraph = Callable[..., np.ndarray]  # takes arrays by the names of the graph's inputs
LoadGraph = Callable[[Path], RunGraph]
# Takes the record of an extraction, the file that tells it, and pictures (paths, or the bytes of files);
# returns their features [N,F], or regions [N,R,F] with the number [N] of each.
Extract = Callable[[dict, Path, Sequence[str | Path | bytes]], tuple[np.ndarray, np.ndarray | None]]

TEXTS_TOGETHER, IMAGES_TOGETHER, PICTURES_TOGETHER, PAIRS_TOGETHER = 256, 64, 16, 32


class UnknownWordsError(UserError):
    """A sentence of which the model knows no word; `words` are those."""

    def __init__(self, text: str, words: list[str]) -> None:
        super().__init__(
            f"no word of {cut(text, 80)!r} is in the vocabulary; use words of the training captions"
        )
        self.words = words


class Bundle:
    """An exported model; `open` makes one.

    `description` is the content of `model.json`. `identity` is a SHA-256 in hexadecimal: bundles of equal
    identity make equal embeddings. `dimension` is the width D of embeddings, and `measure` "cosine" or
    "order" is how to compare them; a pair scorer has 0 and "".
    """

    def __init__(
        self, folder: Path, description: dict, load: LoadGraph = Graph, extract: Extract | None = None
    ) -> None:
        self.folder, self.description, self._load, self._extract = folder, description, load, extract
        self.identity = identity_of(description)
        embedding = description["embedding"] or {"width": 0, "measure": ""}
        self.dimension: int = embedding["width"]
        self.measure: str = embedding["measure"]
        self._graphs: dict[str, RunGraph] = {}

    @classmethod
    def open(cls, folder: str | Path, load: LoadGraph = Graph, extract: Extract | None = None) -> "Bundle":
        """Return the bundle in a folder, all files of which are checked; graphs are loaded when first used.

        `load` returns what runs the graph in a file, by default with ONNX Runtime. `extract` makes features
        of pictures, where the bundle tells how its own were made; without it, such a bundle reads features
        alone. Raises UserError for a bundle that is missing, cut, changed, of another format, or for another
        runtime.
        """
        folder = Path(folder)
        description = read_description(folder)
        if description["runtime"] != "onnx" and load is Graph:
            raise UserError(
                f"{folder}: a bundle for Paddle Inference, expected one for ONNX Runtime; export the model "
                "with --format onnx"
            )
        return cls(folder, description, load, extract)

    @cached_property
    def words(self) -> Vocabulary:
        """Return the vocabulary (of a BERT the word pieces); raise UserError for a model without text."""
        text = self.description["text"]
        if text is None:
            raise self._lacks("a text encoder", "compare pictures with encode_pictures")
        path = self.folder / text["file"]
        if text["tokenizer"] != "wordpiece":
            return Vocabulary.load(path)
        try:
            from datasets.words.wordpiece import WordPiece
        except ModuleNotFoundError as error:
            raise UserError(
                f"{self.folder}: its word pieces need the package {error.name}: pip install {error.name}"
            ) from error
        return WordPiece.load(path, text["lower"])

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a sentence that the model has not learned, each once.

        Raises UserError for a sentence without a word, and UnknownWordsError for one of which it knows none.
        """
        words = list(dict.fromkeys(self.words.tokens(text)))
        if not words:
            raise UserError("expected a sentence, got none")
        if not hasattr(self.words, "knows"):
            return []
        unknown = [word for word in words if not self.words.knows(word)]
        if len(unknown) == len(words):
            raise UnknownWordsError(text, unknown)
        return unknown

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts: float32 [N,D]; equal sentences are encoded once.

        Raises UserError for a model without a text encoder.
        """
        self._check_embeds("text")
        longest = self.description["text"]["longest"]
        sentences: dict[tuple[int, ...], int] = {}
        rows = [
            sentences.setdefault(cut_sentence(ids, longest, self.words.end_id), len(sentences))
            for ids in encode_sentences(texts, self.words)
        ]
        tokens = PackedTokens.of(sentences)
        embeddings = np.empty((len(tokens), self.dimension), np.float32)
        order = np.argsort(tokens.lengths, kind="stable")  # so that batches have little padding
        for start in range(0, len(order), TEXTS_TOGETHER):
            part = order[start : start + TEXTS_TOGETHER]
            embeddings[part] = self.encode_tokens(**tokens.batch(part, self.words.pad_id))
        return embeddings[np.array(rows, dtype=np.int64)]

    def encode_tokens(self, token_ids: np.ndarray, text_len: np.ndarray) -> np.ndarray:
        """Return the embeddings [B,D] of `token_ids` [B,T] with `text_len` [B] tokens each, all int64."""
        return self._graph("text")(token_ids=token_ids, text_len=text_len)

    def encode_features(self, features: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Return the embeddings of images, float32 [N,D], from vectors [N,F] or from regions [N,R,F].

        `counts` [N] are the regions of each image, the rest is padding (default: R). A model of vectors
        encodes the mean of the regions. Raises UserError for features of another shape, NaN and infinity, and
        for a model of pictures.
        """
        image = self._feature_side()
        features, counts = checked_features(features, counts, image)
        embeddings = np.empty((len(features), self.dimension), np.float32)
        for start in range(0, len(features), IMAGES_TOGETHER):
            part, count = (array[start : start + IMAGES_TOGETHER] for array in (features, counts))
            if image["reads"] == "regions":
                inputs = {"regions": part[:, : count.max()], "num_regions": count}
            else:
                inputs = {"features": mean_of_regions(part, count) if part.ndim == 3 else part}
            found = self._graph("image")(
                **{name: np.ascontiguousarray(each) for name, each in inputs.items()}
            )
            embeddings[start : start + len(part)] = found
        return embeddings

    @property
    def feature_width(self) -> int:
        """Return the width F of the features that the model reads; raise UserError for one of pictures."""
        return self._feature_side()["width"]

    @property
    def extracts(self) -> bool:
        """Return whether pictures become features first, by the network that made those of the training."""
        return bool(self.description.get("extraction") and self._extract)

    @property
    def reads_pictures(self) -> bool:
        """Return whether it encodes pictures, by pixels or by extracting features first."""
        return self.extracts or (self.description["image"] or {}).get("reads") == "pixels"

    def encode_pictures(self, pictures: "Sequence[str | Path | bytes | Image.Image]") -> np.ndarray:
        """Return the embeddings of picture files, float32 [N,D].

        A model of pixels takes Pillow's images too; one of features takes paths, or else the bytes of files.
        Raises UserError for a picture that cannot be read, and for a model of features where it is not known
        how they are extracted.
        """
        if self.extracts:
            source = self.folder / DESCRIPTION_FILE
            return self.encode_features(*self._extract(self.description["extraction"], source, pictures))
        preparation = self.picture_preparation
        embeddings = np.empty((len(pictures), self.dimension), np.float32)
        for start in range(0, len(pictures), PICTURES_TOGETHER):
            part = pictures[start : start + PICTURES_TOGETHER]
            pixels = np.stack([preparation.read_or_refuse(picture) for picture in part])
            embeddings[start : start + len(part)] = self.encode_pixels(pixels)
        return embeddings

    @property
    def picture_preparation(self) -> "PicturePreparation":
        """Return what turns pictures into pixels for `encode_pixels`; raise UserError without such a need."""
        image = self._image_side()
        if image["reads"] != "pixels":
            raise self._lacks(
                "an encoder of pictures",
                f"it reads {image['reads']} of width {image['width']}{_backbone_of(self.description)}: "
                "extract them with tools/extract_features.py, and give it these",
            )
        from serving.bundle.pictures import PicturePreparation

        return PicturePreparation.of(image)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings [B,D] of prepared pictures `pixels`, float32 [B,3,H,W]."""
        return self._graph("image")(pixels=pixels)

    def score_pairs(
        self,
        texts: Sequence[str],
        regions: np.ndarray,
        counts: np.ndarray | None = None,
        tags: Sequence[Sequence[str]] | None = None,
        pairs: Pairs | None = None,
    ) -> np.ndarray:
        """Return the score of each pair of a text and an image, float32 [P]; higher fits better.

        `regions` [I,R,F] with `counts` [I] are those of the images, and `tags` the object tags of each. Pair
        p is text `pairs.captions[p]` with image `pairs.images[p]` (default: text p with image p). Raises
        UserError for a model that scores no pairs, and for features as `encode_features` does.
        """
        if "pairs" not in self.description["graphs"]:
            raise self._lacks("a scorer of pairs", "compare its embeddings instead")
        word_piece = self.words
        from datasets.words.pair_texts import PairTexts, encode_tags

        text, image = self.description["text"], self.description["image"]
        regions, counts = checked_features(regions, counts, image)
        regions, counts = regions[:, : image["most"]], np.minimum(counts, image["most"])
        if image["tags"] and tags is None:
            raise UserError(f"{self.folder}: expected the object tags of each image, which this model reads")
        if pairs is None:
            pairs = Pairs(np.arange(len(regions)), np.arange(len(texts)))
        encoded = encode_tags(tags if image["tags"] else None, len(regions), word_piece)
        pair_texts = PairTexts(list(texts), encoded, word_piece, text["longest"])
        lengths = pair_texts.lengths(pairs) + counts[pairs.images]
        scores, order = np.empty(len(pairs), np.float32), np.argsort(lengths, kind="stable")
        for start in range(0, len(order), PAIRS_TOGETHER):
            part = order[start : start + PAIRS_TOGETHER]
            images = pairs.images[part]
            count = counts[images]
            batch = pair_texts.batch(pairs[part])
            scores[part] = self.score_batch(
                **batch, regions=regions[images, : count.max()], num_regions=count
            )
        return scores

    def score_batch(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the scores [P] of pairs, given the inputs of the graph `pairs` by name."""
        return self._graph("pairs")(**inputs)

    def _graph(self, name: str) -> RunGraph:
        if name not in self._graphs:
            self._graphs[name] = self._load(self.folder / self.description["graphs"][name]["file"])
        return self._graphs[name]

    def _image_side(self) -> dict:
        self._check_embeds("image")
        return self.description["image"]

    def _feature_side(self) -> dict:
        image = self._image_side()
        if image["reads"] == "pixels":
            raise self._lacks("an encoder of features", "give it pictures")
        return image

    def _check_embeds(self, side: str) -> None:
        if side not in self.description["graphs"]:
            what = (
                "scores pairs of a text and an image"
                if self.description["kind"] == "cross"
                else "embeds pictures"
            )
            raise self._lacks(f"an encoder of {side}s", f"it {what}")

    def _lacks(self, what: str, otherwise: str) -> UserError:
        return UserError(f"{self.folder}: a {self.description['family']} model without {what}: {otherwise}")


def _backbone_of(description: dict) -> str:
    """Return in words what made the features of the model's training, "" where it is not known."""
    networks = [(description.get("extraction") or {}).get(name) for name in ("backbone", "detector")]
    names = [Path(str(each.get("path"))).name for each in networks if isinstance(each, dict)]
    return f", which {' and '.join(names)} made" if names else ""
