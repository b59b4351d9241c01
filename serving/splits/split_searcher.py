"""Search one split of a data set, whose captions are encoded when a picture first asks for them."""

from functools import cached_property

import numpy as np
import paddle

from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import encode_captions
from engine.evaluation.encoder import Encoder
from serving.search.searcher import CaptionTexts, Searcher


class SplitSearcher(Searcher):
    """Answer queries over the images and captions of `dataset`, each of which is encoded once by `model`.

    `images` [N,D] are the embeddings of the data set's images, if they are known already.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        dataset: RetrievalDataset,
        batch_size: int = 256,
        images: np.ndarray | None = None,
    ) -> None:
        self.model, self.dataset, self._batch_size = model, dataset, batch_size
        # Whether regions are pooled follows from the model; where the store has none, nothing is pooled.
        encoder = Encoder(
            model, dataset.vocabulary, dataset.max_seq_len, not dataset.pool_regions, batch_size
        )
        images = encoder.encode_gallery(dataset) if images is None else images
        super().__init__(encoder, images, dataset.image_ids, f"the {dataset.name} split")

    @cached_property
    def captions(self) -> CaptionTexts:
        """Return the distinct sentences of the split, each under the text of its first caption."""
        embeddings, sentence = encode_captions(self.model, self.dataset, self._batch_size)
        first_caption = np.unique(sentence, return_index=True)[1]
        texts = [self.dataset.captions[row] for row in first_caption]
        own: dict[str, set[str]] = {}
        right = self.dataset.relevance
        for image, row in zip(right.images.tolist(), sentence[right.captions].tolist(), strict=True):
            own.setdefault(self.dataset.image_ids[image], set()).add(texts[row])
        return CaptionTexts(embeddings, texts, own)
