"""VSRN: visual semantic reasoning over the regions of an image (Li et al. 2019, arXiv 1909.02701)."""

import math
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from models.captioner import Captioner
from models.directions import BOX_TERMS, DirectionSummary
from models.dual_encoder import DualEncoder
from models.encoders import FeatureNorm, l2norm, last_state
from models.gathering import Gather, own_rows
from models.layers.batch_norm import BatchNorm
from models.layers.lowered import Linear, product


@dataclass(frozen=True)
class RegionLayout:
    """The layout of the P regions in a padded batch [B,R,...], by which padding is left out of computations.

    `width` is R. `rows` [P] are the indices of the regions among the B x R; None: there is no padding.
    """

    num_regions: Tensor  # [B]
    width: int
    rows: Tensor | None

    @staticmethod
    def of(regions: Tensor, num_regions: Tensor) -> "RegionLayout":
        """Return the layout of `regions` [B,R,F], of which image b has the first `num_regions[b]`."""
        width = regions.shape[1]
        real = paddle.arange(width).unsqueeze(0) < num_regions.unsqueeze(1)  # [B,R]
        rows = None if bool(real.all()) else real.flatten().nonzero().flatten()
        return RegionLayout(num_regions, width, rows)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the regions [P,D] of `padded` [B,R,D]."""
        flat = padded.reshape([-1, padded.shape[-1]])
        return flat if self.rows is None else flat.gather(self.rows)

    def pad(self, packed: Tensor) -> Tensor:
        """Return `packed` [P,D] as a padded batch [B,R,D]; padding is 0."""
        if self.rows is not None:
            flat = paddle.zeros([len(self.num_regions) * self.width, packed.shape[1]], packed.dtype)
            packed = flat.scatter(self.rows, packed)
        return packed.reshape([-1, self.width, packed.shape[-1]])

    def mean_weights(self, dtype: paddle.dtype) -> Tensor:
        """Return the weights [B,1,R] of a mean over regions: 1 / `num_regions`, and 0 at padding."""
        share = (1.0 / self.num_regions.astype(dtype)).reshape([-1, 1, 1])
        real = paddle.arange(self.width).reshape([1, 1, -1]) < self.num_regions.reshape([-1, 1, 1])
        return share * real.astype(dtype)


def _projection(dim: int) -> Linear:
    """Return a 1x1 convolution as a linear layer, with PyTorch's initialisation."""
    bound = 1 / math.sqrt(dim)
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    return Linear(dim, dim, weight_attr=uniform, bias_attr=uniform)


class GraphBlock(nn.Layer):
    """One step of region reasoning: a graph convolution over all regions of an image (eq. 2 to 4).

        R = theta(v) phi(v)^T / N      y = R g(v)      v* = v + BN(W y)

    There is no nonlinearity between theta and phi, nor between g and W, so the weights can be multiplied
    first: R = v (Theta Phi^T) v^T and W y = (R v) (G W), up to the biases. If the batch has more regions than
    there are dimensions, this saves up to half of the work; values and gradients are the same up to rounding.
    The scale and the bias of the batch norm are initially 0, so the block is the identity at first.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta = _projection(dim)
        self.phi = _projection(dim)
        self.g = _projection(dim)
        self.out = _projection(dim)
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.norm = BatchNorm(dim, weight_attr=zero, bias_attr=zero)

    def forward(self, regions: Tensor, layout: RegionLayout) -> tuple[Tensor, Tensor]:
        """Return the regions [P,D] after the step, and the affinities R [B,R,R] from region i to region j."""
        merge = regions.shape[0] > regions.shape[1]
        padded = layout.pad(regions)  # [B,R,D]
        affinity = self._merged_affinity(regions, layout) if merge else self._affinity(regions, layout)
        affinity = affinity * layout.mean_weights(affinity.dtype)
        if merge:
            heard = layout.pack(affinity @ padded)  # [P,D]
            total = layout.pack(affinity.sum(axis=2, keepdim=True))  # [P,1]
            weight, bias = product(self.g.weight, self.out.weight), self.g.bias @ self.out.weight
            message = product(heard, weight, bias=self.out.bias, outer=(total, bias))
        else:
            message = self.out(layout.pack(affinity @ layout.pad(self.g(regions))))
        return regions + self.norm(message), affinity

    def _affinity(self, regions: Tensor, layout: RegionLayout) -> Tensor:
        query, key = layout.pad(self.theta(regions)), layout.pad(self.phi(regions))
        return paddle.matmul(query, key, transpose_y=True)  # [B,R,R]

    def _merged_affinity(self, regions: Tensor, layout: RegionLayout) -> Tensor:
        both = product(self.theta.weight, self.phi.weight, transposed=True)  # [D,D]
        query = layout.pad(product(regions, both, bias=self.phi.weight @ self.theta.bias))
        own = layout.pad((regions @ (self.theta.weight @ self.phi.bias)).unsqueeze(1))  # [B,R,1]
        constant = (self.theta.bias * self.phi.bias).sum()
        return paddle.matmul(query, layout.pad(regions), transpose_y=True) + own + constant


class RegionEncoder(nn.Layer):
    """An image encoder: linear map, graph blocks, and a GRU over the regions (section 3).

    With `norm_regions` the mapped regions are l2-normalised, with `batch_norm` a batch norm follows the GRU's
    last state; the released COCO model has the first, the Flickr30K model the second. Mapped and reasoned
    regions are l2-normalised **over the regions of an image**, each dimension by itself, as in the released
    code, whose weights need it.

    With `direction_dim` above 0, which the original has not, the GRU's last state is added to a
    `DirectionSummary` of that width; the features' last six columns are then box terms.
    """

    def __init__(
        self,
        feature_dim: int,
        embed_dim: int,
        num_blocks: int = 4,
        norm_regions: bool = True,
        batch_norm: bool = False,
        normalize: bool = True,
        absolute: bool = False,
        dropout: float = 0.0,
        feature_norm: FeatureNorm | None = None,
        direction_dim: int = 0,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (feature_dim + embed_dim))
        uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.feature_norm = feature_norm
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(feature_dim, embed_dim, weight_attr=uniform, bias_attr=zero)
        self.blocks = nn.LayerList([GraphBlock(embed_dim) for _ in range(num_blocks)])
        self.rnn = nn.GRU(embed_dim, embed_dim)
        self.directions = DirectionSummary(feature_dim, direction_dim, embed_dim) if direction_dim else None
        self.norm = BatchNorm(embed_dim) if batch_norm else None
        self.norm_regions = norm_regions
        self.normalize = normalize
        self.absolute = absolute

    def reason(self, regions: Tensor, num_regions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the reasoned regions [B,R,D], normalised over R, and each block's affinities [B,R,R].

        `regions` are [B,R,F], of which image b has the first `num_regions[b]`.
        """
        layout = RegionLayout.of(regions, num_regions)
        packed = self.fc(self.dropout(self._standardised(layout.pack(regions))))  # [P,D]
        if self.norm_regions:
            packed = layout.pack(l2norm(layout.pad(packed), axis=1))
        affinities = []
        for block in self.blocks:
            packed, affinity = block(packed, layout)
            affinities.append(affinity)
        return l2norm(layout.pad(packed), axis=1), affinities

    def pool(self, reasoned: Tensor, num_regions: Tensor, summary: Tensor | None = None) -> Tensor:
        """Return the embeddings [B,D] of reasoned regions [B,R,D]; `summary` is what `summarise` returns."""
        embedding = last_state(self.rnn, reasoned, num_regions)
        if summary is not None:
            embedding = embedding + summary
        if self.norm is not None:
            embedding = self.norm(embedding)
        if self.normalize:
            embedding = l2norm(embedding)
        return embedding.abs() if self.absolute else embedding

    def affinities(self, regions: Tensor, num_regions: Tensor) -> list[Tensor]:
        """Return each block's affinities [B,R,R]: row i has the weights of all regions in the update of i."""
        return self.reason(regions, num_regions)[1]

    def forward(self, regions: Tensor, num_regions: Tensor) -> Tensor:
        """Return the embeddings [B,D] of `regions` [B,R,F], the first `num_regions[b]` of each image b."""
        reasoned, _ = self.reason(regions, num_regions)
        return self.pool(reasoned, num_regions, self.summarise(regions, num_regions))

    def summarise(self, regions: Tensor, num_regions: Tensor) -> Tensor | None:
        """Return the summaries [B,D] of what lies where in `regions` [B,R,F]; None without directions."""
        if self.directions is None:
            return None
        boxes = regions[:, :, -BOX_TERMS : 4 - BOX_TERMS]  # [B,R,4]
        return self.directions(self._standardised(regions), boxes, num_regions)

    def _standardised(self, features: Tensor) -> Tensor:
        return features if self.feature_norm is None else self.feature_norm(features)


class VSRN(DualEncoder):
    """VSRN's dual encoder, with a decoder that learns to generate the caption from the regions.

    The original lists the decoder's parameters twice, so each step clips and updates them twice, and its
    checkpoints lack them. Here each step updates them once, and checkpoints hold them. Without a `captioner`,
    the model is trained for retrieval alone.
    """

    def __init__(
        self,
        image_encoder: RegionEncoder,
        text_encoder: nn.Layer,
        measure: str = "cosine",
        captioner: Captioner | None = None,
        gather: Gather = own_rows,
    ) -> None:
        super().__init__(image_encoder, text_encoder, measure, gather)
        self.captioner = captioner

    def encode_image(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the embeddings [B,D] of `regions` [B,R,F] with `num_regions` [B]."""
        return self.image_encoder(batch["regions"], batch["num_regions"])

    def affinities(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return each graph block's affinities [B,R,R] between regions (arXiv 1909.02701, eq. 2)."""
        return self.image_encoder.affinities(batch["regions"], batch["num_regions"])

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of a `DualEncoder` and, in training, those of the captioner if there is one.

        The latter are the `word_logits` [W,V] and their targets `words` [W].
        """
        regions, num_regions = batch["regions"], batch["num_regions"]
        reasoned, _ = self.image_encoder.reason(regions, num_regions)
        summary = self.image_encoder.summarise(regions, num_regions)
        outputs = self.compare(self.image_encoder.pool(reasoned, num_regions, summary), batch)
        if self.captioner is None or not self.training:
            return outputs
        logits, words = self.captioner(
            reasoned, num_regions, batch["token_ids"], batch["text_len"], batch.get("image_row")
        )
        return {**outputs, "word_logits": logits, "words": words}

    def write_captions(self, batch: dict[str, Tensor], max_len: int) -> Tensor:
        """Return captions [B,L] by greedy decoding, as `Captioner.write` does from the reasoned regions."""
        reasoned, _ = self.image_encoder.reason(batch["regions"], batch["num_regions"])
        return self.captioner.write(reasoned, batch["num_regions"], max_len)
