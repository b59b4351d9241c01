"""The dual encoder of VSE (arXiv 1411.2539) and VSE++ (arXiv 1707.05612)."""

import paddle
from paddle import Tensor, nn

from models.encoders import SMALLEST_NORM, mean_of
from models.gathering import Gather, own_rows


def cosine_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return the inner products [I,T] of `image` [I,D] and `text` [T,D], cosines when both are normalised."""
    return image @ text.T


def order_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return -||max(0, text - image)|| [I,T] of `image` [I,D] and `text` [T,D] (arXiv 1511.06361, eq. 2)."""
    violation = nn.functional.relu(text.unsqueeze(0) - image.unsqueeze(1))  # [I,T,D]
    squares = (violation * violation).sum(axis=-1)
    return -paddle.sqrt(squares.clip(min=SMALLEST_NORM**2))  # a root of 0 has no gradient


SIMILARITIES = {"cosine": cosine_similarity, "order": order_similarity}


class DualEncoder(nn.Layer):
    """Encode images and captions apart into one space and compare them there.

    A batch holds `features` [B,F], or `regions` [B,R,F] with `num_regions` [B], which are averaged, or
    `image` [B,3,H,W], where the image encoder sees pixels; and `token_ids` [B,T] with `text_len` [B].
    `gather` brings the embeddings to be compared together, as `gather_rows` does from all processes. A model
    with a `captioner` also writes captions.
    """

    def __init__(
        self,
        image_encoder: nn.Layer,
        text_encoder: nn.Layer,
        measure: str = "cosine",
        gather: Gather = own_rows,
    ) -> None:
        """Raise ValueError when `measure` is neither "cosine" nor "order"."""
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
        return self.image_encoder(batch["image"] if "image" in batch else batch["features"])

    def encode_text(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the embeddings [B,D] of the batch's captions."""
        return self.text_encoder(batch["token_ids"], batch["text_len"])

    def affinities(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return how strongly each graph block relates the regions, [B,R,R] each; nothing without a graph."""
        return []

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the scores [I,T] of `image` [I,D] and `text` [T,D]; higher is more similar."""
        return SIMILARITIES[self.measure](image, text)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `image` [N,D], `text` [N,D] and `scores` [N,N], rows images and columns captions.

        N is B, or the rows of all processes where `gather` brings them.
        """
        return self.compare(self.encode_image(batch), batch)

    def compare(self, image: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what `forward` does, given the embeddings of the batch's images.

        With `image_row` [B] in the batch, pair b has image `image_row[b]`: images that several pairs share
        are encoded once.
        """
        if "image_row" in batch:
            image = nn.functional.embedding(batch["image_row"], image)
        text = self.encode_text(batch)
        with paddle.amp.auto_cast(enable=False):  # half precision is coarser than what tells pairs apart
            image, text = self.gather(image.astype("float32"), text.astype("float32"))
            scores = self.similarity(image, text)
        return {"image": image, "text": text, "scores": scores}
