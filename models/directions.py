"""A summary of an image by what lies where: each region hears what is right, below, left and above."""

from paddle import Tensor, concat, nn
from paddle.nn import functional

from models.encoders import is_real, l2norm, mean_of

DIRECTIONS = 4  # right, below, left, above
BOX_TERMS = 6  # the last columns of features: x1 / W, y1 / H, x2 / W, y2 / H, width / W, height / H


class DirectionSummary(nn.Layer):
    """A pairwise layer over regions, whose mean is a part of an image's embedding.

        u_i = relu(C v_i)      s = W 1/N sum_i relu(A u_i + sum_d sum_j w_d(i, j) B_d u_j)

    It is a relation network (Santoro et al. 2017, arXiv 1706.01427) whose pairs are weighted by geometry: the
    weight w_d(i, j) is the squared cosine of the angle between direction d and the line from the centre of
    box i to that of box j, and 0 beyond a right angle, so the four weights of a pair add up to 1. Unlike the
    products of VSRN's graph, the sum inside the outer ReLU binds what a region shows to what lies beside it.
    `hidden_dim` is the width of the u_i.
    """

    def __init__(self, feature_dim: int, hidden_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(feature_dim, hidden_dim)
        self.own = nn.Linear(hidden_dim, hidden_dim)
        self.others = nn.Linear(hidden_dim, DIRECTIONS * hidden_dim, bias_attr=False)
        self.out = nn.Linear(hidden_dim, embed_dim)

    def forward(self, regions: Tensor, boxes: Tensor, num_regions: Tensor) -> Tensor:
        """Return the summaries [B,D] of `regions` [B,R,F], of which image b has the first `num_regions[b]`.

        `boxes` [B,R,4] are x1, y1, x2, y2 in any one unit.
        """
        hidden = functional.relu(self.hidden(regions))  # [B,R,H]
        hidden = hidden * is_real(hidden, num_regions).astype(hidden.dtype).unsqueeze(2)
        # Adding up the u_j before the products with B_d moves no array larger than the weights.
        images, count, width = hidden.shape
        weights = direction_weights(boxes).transpose([0, 2, 1, 3]).reshape([images, -1, count])  # [B,R*4,R]
        around = (weights @ hidden).reshape([images, count, -1])  # [B,R,4*H]
        matrices = self.others.weight.reshape([width, DIRECTIONS, width]).transpose([1, 0, 2])  # [4,H,H]
        heard = around @ matrices.reshape([-1, width])  # [B,R,H]
        return self.out(mean_of(functional.relu(self.own(hidden) + heard), num_regions))


def direction_weights(boxes: Tensor) -> Tensor:
    """Return the weights [B,4,R,R] with which region i hears region j to its right, below, left and above.

    `boxes` are [B,R,4]. Boxes with one centre do not hear each other, and a box does not hear itself.
    """
    centres = (boxes[:, :, :2] + boxes[:, :, 2:]) / 2  # [B,R,2]
    towards = l2norm(centres.unsqueeze(1) - centres.unsqueeze(2))  # [B,R,R,2] from i to j
    cosines = concat([towards, -towards], axis=3).transpose([0, 3, 1, 2])  # [B,4,R,R]
    return functional.relu(cosines).square()
