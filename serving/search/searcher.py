"""Search one split with a trained dual encoder: pictures by sentence, sentences and pictures by picture."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import paddle

from config.errors import UserError
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import encode_captions, encode_images
from serving.search.index import Index


@dataclass(frozen=True)
class Hit:
    """One result: an image's id or a caption, its score (higher is better), whether it is true.

    `before`: its place, from 1, before it was re-ranked; 0 where it was not.
    """

    name: str
    score: float
    right: bool = False
    before: int = 0


class Searcher:
    """Answer queries over the images and captions of `dataset`, which are encoded once.

    `images` [N,D]: the embeddings of the data set's images, where somebody has them already.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        dataset: RetrievalDataset,
        batch_size: int = 256,
        images: np.ndarray | None = None,
    ):
        self.model, self.dataset, self.batch_size = model, dataset, batch_size
        self.images = encode_images(model, dataset, batch_size) if images is None else images
        self.image_index = Index(self.images, dataset.image_ids, self._similarity)
        self._caption_index: Index | None = None
        self._spelling = np.empty(0, str)  # [captions], as the first of those that are one sentence

    def _similarity(self, queries: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Return scores [Q,N]; queries of order similarity are captions (an image query swaps the roles)."""
        with paddle.no_grad():
            return self.model.similarity(paddle.to_tensor(embeddings), paddle.to_tensor(queries)).numpy().T

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that the model never saw in training."""
        vocabulary = self.dataset.vocabulary
        words = dict.fromkeys(vocabulary.tokens(text))  # each once, in order
        return [word for word in words if not vocabulary.knows(word)]

    def encode_text(self, text: str) -> np.ndarray:
        """Return the embedding [1,D] of a sentence.

        Raises UserError when it is empty or no word of it is known.
        """
        words = self.dataset.vocabulary.tokens(text)
        if not words:
            raise UserError("--text: expected a sentence, got none; write it in quotes")
        if len(self.unknown_words(text)) == len(set(words)):
            raise UserError(
                f"--text: no word of {text!r} is in the vocabulary; use words of the training captions"
            )
        batch = self.dataset.with_texts([text]).text_batch(np.arange(1))
        with paddle.no_grad():
            tensors = {name: paddle.to_tensor(array) for name, array in batch.items()}
            return self.model.encode_text(tensors).numpy()

    def images_for_text(self, text: str, k: int) -> list[Hit]:
        """Return the k pictures that fit a sentence best."""
        return _hits(self.image_index.search(self.encode_text(text), k))

    def captions_for_image(self, embedding: np.ndarray, k: int, image_id: str | None = None) -> list[Hit]:
        """Return the k distinct captions that fit a picture's embedding [1,D] best.

        Those that belong to the image `image_id` are marked as right.
        """
        if self._caption_index is None:
            texts, sentence_of_caption = encode_captions(self.model, self.dataset, self.batch_size)
            first_caption = np.unique(sentence_of_caption, return_index=True)[1]
            captions = [self.dataset.captions[row] for row in first_caption]
            self._caption_index = Index(
                texts, captions, lambda images, texts: self._similarity(texts, images).T
            )
            self._spelling = self._caption_index.ids[sentence_of_caption]
        hits = _hits(self._caption_index.search(embedding, k))
        own = set()
        if image_id is not None:
            own.update(self._spelling[self.dataset.caption_image == self.dataset.image_ids.index(image_id)])
        return [replace(hit, right=hit.name in own) for hit in hits]

    def images_for_image(self, embedding: np.ndarray, k: int, leave_out: str | None = None) -> list[Hit]:
        """Return the k pictures whose embeddings are closest (cosine) to a picture's [1,D]."""
        index = Index(
            _normalized(self.images), self.dataset.image_ids, lambda queries, images: queries @ images.T
        )
        hits = _hits(index.search(_normalized(embedding), k + 1))
        return [hit for hit in hits if hit.name != leave_out][:k]

    def embed_image(self, name: str) -> tuple[np.ndarray, str | None]:
        """Return the embedding [1,D] of an image of the split or of a .npy file, and its id in the split."""
        if name.endswith(".npy"):
            return self.encode_features(name), None
        row = image_row(self.dataset, name, ", or a .npy file with an image's features")
        return self.images[row : row + 1], self.dataset.image_ids[row]

    def encode_features(self, path: str) -> np.ndarray:
        """Return the embedding [1,D] of an image whose features [F] or [R,F] are in a .npy file."""
        regions = read_features(path, self.dataset.features.dim)  # [R,F]
        if "regions" in self.dataset.image_batch(np.arange(1)):
            batch = {"regions": regions[None], "num_regions": np.array([len(regions)])}
        else:
            batch = {"features": regions.mean(axis=0, keepdims=True)}  # [1,F]
        with paddle.no_grad():
            tensors = {name: paddle.to_tensor(array) for name, array in batch.items()}
            return self.model.encode_image(tensors).numpy()


def image_row(dataset: RetrievalDataset, name: str, otherwise: str = "") -> int:
    """Return the row of the image whose id, or file name, is `name`.

    Raises UserError with the nearest names when there is none; `otherwise` is what else could be given.
    """
    rows = {image_id: row for row, image_id in reversed(list(enumerate(dataset.image_ids)))}
    for candidate in (name, Path(name).name, Path(name).stem):
        if candidate in rows:
            return rows[candidate]
    near = get_close_matches(Path(name).name, list(rows), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"such as {', '.join(list(rows)[:3])}"
    raise UserError(
        f"--image: {name!r} is not an image of the {dataset.name} split ({hint}); give the id or file name "
        f"of one of its images, or another EVAL.SPLIT{otherwise}"
    )


def read_features(path: str, width: int) -> np.ndarray:
    """Return the features of one image in a .npy file, [F] or [R,F], as float32 [R,F].

    Raises UserError for a file that is missing, of another kind or another width, or that holds NaN.
    """
    try:
        with open(path, "rb") as file:
            features = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UserError(f"--image: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--image: {path} is not a .npy file ({reason}); write it with numpy.save") from error
    fits = features.ndim in (1, 2) and features.shape[-1] == width and features.size
    if not fits or features.dtype.kind not in "fiu":
        raise UserError(
            f"--image: {path}: expected numbers of shape [{width}] or [R,{width}], as the model was trained "
            f"on, got {features.dtype} of shape {list(features.shape)}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        regions = features.astype(np.float32).reshape(-1, width)
    broken = np.flatnonzero(~np.isfinite(regions).all(axis=1))
    if len(broken):
        raise UserError(
            f"--image: {path}: row {broken[0] + 1} holds NaN or infinity, expected finite numbers"
        )
    return regions


def _hits(found: tuple[np.ndarray, np.ndarray]) -> list[Hit]:
    scores, names = found
    return [Hit(str(name), float(score)) for name, score in zip(names[0], scores[0], strict=True)]


def _normalized(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
