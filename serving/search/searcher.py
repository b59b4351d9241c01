"""Search one split with a trained dual encoder: sentences find pictures, pictures find both."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import paddle

from config.errors import UserError
from datasets.names import same_name
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import encode_captions, encode_images
from engine.evaluation.protocol import tensors_of
from serving.search.index import Index


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    `name` is an image's id or a caption. `score` is higher for a better fit, and None where nothing was
    scored. `right` tells whether the hit belongs to the query. `before` is the place, from 1, that the hit
    had before re-ranking, and 0 without re-ranking.
    """

    name: str
    score: float
    right: bool = False
    before: int = 0


class Searcher:
    """Answer queries over the images and captions of `dataset`, each of which is encoded once.

    `images` [N,D] are the embeddings of the data set's images, if they are known already.
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
        self._indexed_text = np.empty(0, str)  # [captions]: the text under which each sentence is indexed

    def _similarity(self, queries: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Return the scores [Q,N] of captions `queries` [Q,D] with images `embeddings` [N,D].

        Order similarity is not symmetric, so a search by image swaps the arguments and transposes the scores.
        """
        with paddle.no_grad():
            return self.model.similarity(paddle.to_tensor(embeddings), paddle.to_tensor(queries)).numpy().T

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that are not in the model's vocabulary, each once."""
        vocabulary = self.dataset.vocabulary
        words = dict.fromkeys(vocabulary.tokens(text))  # keeps the order
        return [word for word in words if not vocabulary.knows(word)]

    def encode_text(self, text: str) -> np.ndarray:
        """Return the embedding [1,D] of a sentence.

        Raises UserError for a sentence without words, or without one that is in the vocabulary.
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
            tensors = tensors_of(batch)
            return self.model.encode_text(tensors).numpy()

    def images_for_text(self, text: str, k: int) -> list[Hit]:
        """Return the k pictures that fit a sentence best, best first."""
        return _hits(self.image_index.search(self.encode_text(text), k))

    def captions_for_image(self, embedding: np.ndarray, k: int, image_id: str | None = None) -> list[Hit]:
        """Return the k distinct captions that fit a picture's embedding [1,D] best, best first.

        Captions of the image `image_id` are marked as right.
        """
        if self._caption_index is None:
            texts, sentence_of_caption = encode_captions(self.model, self.dataset, self.batch_size)
            first_caption = np.unique(sentence_of_caption, return_index=True)[1]
            captions = [self.dataset.captions[row] for row in first_caption]
            self._caption_index = Index(
                texts, captions, lambda images, texts: self._similarity(texts, images).T
            )
            self._indexed_text = self._caption_index.ids[sentence_of_caption]
        hits = _hits(self._caption_index.search(embedding, k))
        own = set()
        if image_id is not None:
            row = self.dataset.image_ids.index(image_id)
            own.update(self._indexed_text[self.dataset.caption_image == row])
        return [replace(hit, right=hit.name in own) for hit in hits]

    def images_for_image(self, embedding: np.ndarray, k: int, leave_out: str | None = None) -> list[Hit]:
        """Return the k pictures of highest cosine similarity to a picture's embedding [1,D], best first.

        The picture `leave_out` is not among them.
        """
        index = Index(
            _normalized(self.images), self.dataset.image_ids, lambda queries, images: queries @ images.T
        )
        hits = _hits(index.search(_normalized(embedding), k + 1))
        return [hit for hit in hits if hit.name != leave_out][:k]

    def embed_image(self, name: str) -> tuple[np.ndarray, str | None]:
        """Return the embedding [1,D] of an image and its id; `name` is an id, a file name or a .npy file.

        The id is None for a .npy file. Raises UserError where nothing has that name.
        """
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
            tensors = tensors_of(batch)
            return self.model.encode_image(tensors).numpy()


def image_row(dataset: RetrievalDataset, name: str, otherwise: str = "") -> int:
    """Return the row of the image whose id or file name is `name`.

    Raises UserError with the nearest names if there is no such image. The message ends with `otherwise`, the
    other values that the user could give.
    """
    rows = {image_id: row for row, image_id in reversed(list(enumerate(dataset.image_ids)))}
    for candidate in (name, Path(name).name, Path(name).stem):
        names = same_name(candidate, rows)
        if len(names) == 1:
            return rows[names[0]]
    near = get_close_matches(Path(name).name, list(rows), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"such as {', '.join(list(rows)[:3])}"
    raise UserError(
        f"--image: {name!r} is not an image of the {dataset.name} split ({hint}); give the id or file name "
        f"of one of its images, or another EVAL.SPLIT{otherwise}"
    )


def read_features(path: str, width: int) -> np.ndarray:
    """Return the features of one image in a .npy file, [F] or [R,F], as float32 [R,F].

    Raises UserError for a file that cannot be read or is no .npy file, for another width, NaN and infinity.
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
    with np.errstate(over="ignore"):  # a value beyond float32's range becomes infinite and is refused below
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
