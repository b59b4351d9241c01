"""VSRN: visual semantic reasoning over an image's regions (Li et al. 2019, arXiv 1909.02701)."""

import math
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from models.captioner import Captioner
from models.encoders import FeatureNorm, l2norm, last_state
from models.gathering import Gather, own_rows
from models.layers.batch_norm import BatchNorm
from models.vse import DualEncoder


@dataclass(frozen=True)
class RegionLayout:
    """Where the real regions of a padded batch [B,R,...] are, to leave the padding out of the work.

    `rows` [P] are their places among the B x R; None: all are real.
    """

    num_regions: Tensor  # [B]
    width: int
    rows: Tensor | None

    @staticmethod
    def of(regions: Tensor, num_regions: Tensor) -> "RegionLayout":
        """Return the layout of `regions` [B,R,F], of which the first `num_regions` [B] are real."""
        width = regions.shape[1]
        real = paddle.arange(width).unsqueeze(0) < num_regions.unsqueeze(1)  # [B,R]
        rows = None if bool(real.all()) else real.flatten().nonzero().flatten()
        return RegionLayout(num_regions, width, rows)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the real regions [P,D] of `padded` [B,R,D]."""
        flat = padded.reshape([-1, padded.shape[-1]])
        return flat if self.rows is None else flat.gather(self.rows)

    def pad(self, packed: Tensor) -> Tensor:
        """Return `packed` [P,D] as [B,R,D], zero where there is no region."""
        if self.rows is not None:
            flat = paddle.zeros([len(self.num_regions) * self.width, packed.shape[1]], packed.dtype)
            packed = flat.scatter(self.rows, packed)
        return packed.reshape([-1, self.width, packed.shape[-1]])

    def mean_weights(self, dtype: paddle.dtype) -> Tensor:
        """Return [B,1,R]: one over an image's number of regions, zero where there is no region."""
        share = (1.0 / self.num_regions.astype(dtype)).reshape([-1, 1, 1])
        real = paddle.arange(self.width).reshape([1, 1, -1]) < self.num_regions.reshape([-1, 1, 1])
        return share * real.astype(dtype)


def _projection(dim: int) -> nn.Linear:
    """Return a 1x1 convolution as a linear layer, initialised as PyTorch does."""
    bound = 1 / math.sqrt(dim)
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    return nn.Linear(dim, dim, weight_attr=uniform, bias_attr=uniform)


class GraphBlock(nn.Layer):
    """One step of reasoning: every region listens to every other (eq. 2 to 4), with a residual.

        R = theta(v) phi(v)^T / N      y = R g(v)      v* = v + BN(W y)

    There are no layers between theta and phi, nor between g and W, so their products can be taken first:
    R = v (Theta Phi^T) v^T and W y = (R v) (G W), up to the biases. With more regions in the batch than
    dimensions that is less work, up to half; values and gradients are the same up to rounding. The scale and
    bias of the normalisation start at 0: the block is the identity at first.
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
        """Return the regions [P,D] after the step, and the affinities [B,R,R]: row i listens to column j."""
        merge = regions.shape[0] > regions.shape[1]
        padded = layout.pad(regions)  # [B,R,D]
        affinity = self._merged_affinity(regions, layout) if merge else self._affinity(regions, layout)
        affinity = affinity * layout.mean_weights(affinity.dtype)
        if merge:
            heard = layout.pack(affinity @ padded)  # [P,D]
            total = layout.pack(affinity.sum(axis=2, keepdim=True))  # [P,1]
            weight, bias = self.g.weight @ self.out.weight, self.g.bias @ self.out.weight
            message = heard @ weight + (total * bias + self.out.bias)
        else:
            message = self.out(layout.pack(affinity @ layout.pad(self.g(regions))))
        return regions + self.norm(message), affinity

    def _affinity(self, regions: Tensor, layout: RegionLayout) -> Tensor:
        query, key = layout.pad(self.theta(regions)), layout.pad(self.phi(regions))
        return paddle.matmul(query, key, transpose_y=True)  # [B,R,R]

    def _merged_affinity(self, regions: Tensor, layout: RegionLayout) -> Tensor:
        product = paddle.matmul(self.theta.weight, self.phi.weight, transpose_y=True)  # [D,D]
        query = layout.pad(regions @ product + self.phi.weight @ self.theta.bias)
        own = layout.pad((regions @ (self.theta.weight @ self.phi.bias)).unsqueeze(1))  # [B,R,1]
        constant = (self.theta.bias * self.phi.bias).sum()
        return paddle.matmul(query, layout.pad(regions), transpose_y=True) + own + constant


class RegionEncoder(nn.Layer):
    """Map regions into the joint embedding: linear map, graph blocks, GRU over the regions (section 3).

    `norm_regions` l2-normalises the mapped regions, `batch_norm` normalises the GRU's last state over the
    batch: the released COCO model has the first, the Flickr30K model the second. Both normalise **over the
    regions of an image**, each dimension by itself, as the released code does and its weights need.
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
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (feature_dim + embed_dim))
        uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.feature_norm = feature_norm
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(feature_dim, embed_dim, weight_attr=uniform, bias_attr=zero)
        self.blocks = nn.LayerList([GraphBlock(embed_dim) for _ in range(num_blocks)])
        self.rnn = nn.GRU(embed_dim, embed_dim)
        self.norm = BatchNorm(embed_dim) if batch_norm else None
        self.norm_regions = norm_regions
        self.normalize = normalize
        self.absolute = absolute

    def reason(self, regions: Tensor, num_regions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the reasoned regions [B,R,D], normalised over R, and each block's affinities [B,R,R].

        `regions` are [B,R,F], the first `num_regions` [B] of each image are real.
        """
        layout = RegionLayout.of(regions, num_regions)
        packed = layout.pack(regions)  # [P,F]
        if self.feature_norm is not None:
            packed = self.feature_norm(packed)
        packed = self.fc(self.dropout(packed))  # [P,D]
        if self.norm_regions:
            packed = layout.pack(l2norm(layout.pad(packed), axis=1))
        affinities = []
        for block in self.blocks:
            packed, affinity = block(packed, layout)
            affinities.append(affinity)
        return l2norm(layout.pad(packed), axis=1), affinities

    def pool(self, reasoned: Tensor, num_regions: Tensor) -> Tensor:
        """Return the embeddings [B,D] of reasoned regions [B,R,D]."""
        embedding = last_state(self.rnn, reasoned, num_regions)
        if self.norm is not None:
            embedding = self.norm(embedding)
        if self.normalize:
            embedding = l2norm(embedding)
        return embedding.abs() if self.absolute else embedding

    def affinities(self, regions: Tensor, num_regions: Tensor) -> list[Tensor]:
        """Return each block's affinities [B,R,R]: row i says how strongly region i listens to region j."""
        return self.reason(regions, num_regions)[1]

    def forward(self, regions: Tensor, num_regions: Tensor) -> Tensor:
        """Encode `regions` [B,R,F], of which the first `num_regions` [B] are real, as [B,D]."""
        return self.pool(self.reason(regions, num_regions)[0], num_regions)


class VSRN(DualEncoder):
    """The dual encoder of VSRN, with the decoder that learns to write the caption from the regions.

    The original lists the decoder's parameters twice, so that they are clipped and stepped twice, and leaves
    them out of its checkpoints; here they are trained once and saved. Without a `captioner`, retrieval alone
    is trained.
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
        """Return the affinities [B,R,R] of the regions in each graph block (1909.02701, eq. 2)."""
        return self.image_encoder.affinities(batch["regions"], batch["num_regions"])

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what a `DualEncoder` does, and with a captioner in training the `word_logits` [W,V] and
        `words` [W] of what it should have written."""
        regions, num_regions = batch["regions"], batch["num_regions"]
        reasoned, _ = self.image_encoder.reason(regions, num_regions)
        outputs = self.compare(self.image_encoder.pool(reasoned, num_regions), batch)
        if self.captioner is None or not self.training:
            return outputs
        logits, words = self.captioner(
            reasoned, num_regions, batch["token_ids"], batch["text_len"], batch.get("image_row")
        )
        return {**outputs, "word_logits": logits, "words": words}

    def write_captions(self, batch: dict[str, Tensor], max_len: int) -> Tensor:
        """Return the most likely words [B,L], one after another, of `regions` with `num_regions`."""
        reasoned, _ = self.image_encoder.reason(batch["regions"], batch["num_regions"])
        return self.captioner.write(reasoned, batch["num_regions"], max_len)
