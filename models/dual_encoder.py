"""The dual encoder of VSE (arXiv 1411.2539) and VSE++ (arXiv 1707.05612)."""

import paddle
from paddle import Tensor, nn

from models.encoders import SMALLEST_NORM, mean_of
from models.gathering import Gather, own_rows


def cosine_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return the inner products [I,T] of `image` [I,D] and `text` [T,D]: cosines if both are normalised."""
    return image @ text.T


def order_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return -||max(0, text - image)|| [I,T] for `image` [I,D] and `text` [T,D] (arXiv 1511.06361, eq. 2)."""
    violation = nn.functional.relu(text.unsqueeze(0) - image.unsqueeze(1))  # [I,T,D]
    squares = (violation * violation).sum(axis=-1)
    return -paddle.sqrt(squares.clip(min=SMALLEST_NORM**2))  # the gradient of a root is infinite at 0


SIMILARITIES = {"cosine": cosine_similarity, "order": order_similarity}


class DualEncoder(nn.Layer):
    """A dual encoder: it embeds images and captions separately in one space and compares the embeddings.

    A batch holds the images as `features` [B,F], as `regions` [B,R,F] with `num_regions` [B], whose mean is
    encoded, or as `pixels` [B,3,H,W] for a CNN. It holds the captions as `token_ids` [B,T] with
    `text_len` [B]. `gather` returns the embeddings to compare: `own_rows`, or `gather_rows` for those of all
    processes. A model with a `captioner` also generates captions.
    """

    def __init__(
        self,
        image_encoder: nn.Layer,
        text_encoder: nn.Layer,
        measure: str = "cosine",
        gather: Gather = own_rows,
    ) -> None:
        """Raise ValueError if `measure` is neither "cosine" nor "order"."""
        super().__init__()
        if measure not in SIMILARITIES:
            raise ValueError(f"measure: expected one of {sorted(SIMILARITIES)}, got {measure!r}")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.measure = measure
        self.gather = gather
        self.captioner: nn.Layer | None = None

    def encode_image(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the embeddings [B,D] of the batch's images."""
        if "regions" in batch:
            return self.image_encoder(mean_of(batch["regions"], batch["num_regions"]))
        return self.image_encoder(batch["pixels"] if "pixels" in batch else batch["features"])

    def encode_text(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the embeddings [B,D] of the batch's captions."""
        return self.text_encoder(batch["token_ids"], batch["text_len"])

    def affinities(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return each graph block's affinities [B,R,R] between regions; an empty list without a graph."""
        return []

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the scores [I,T] of `image` [I,D] and `text` [T,D]; higher is more similar."""
        return SIMILARITIES[self.measure](image, text)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `image` [N,D], `text` [N,D] and `scores` [N,N], whose rows are images and columns captions.

        N is B, or the number of pairs of all processes if `gather` returns theirs.
        """
        return self.compare(self.encode_image(batch), batch)

    def compare(self, image: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of `forward`, given the embeddings `image` of the batch's images.

        With `image_row` [B] in the batch, pair b has image `image_row[b]`, so an image that several pairs
        share is encoded once.
        """
        if "image_row" in batch:
            image = nn.functional.embedding(batch["image_row"], image)
        text = self.encode_text(batch)
        with paddle.amp.auto_cast(enable=False):  # differences of scores are lost in half precision
            image, text = self.gather(image.astype("float32"), text.astype("float32"))
            scores = self.similarity(image, text)
        return {"image": image, "text": text, "scores": scores}
