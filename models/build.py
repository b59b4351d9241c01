"""Building the configured model and loss."""

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from models.bert import BertShape
from models.captioner import Captioner
from models.cnn import Cnn, CnnImageEncoder, ImageEmbedder
from models.dual_encoder import SIMILARITIES, DualEncoder
from models.encoders import FeatureNorm, GRUTextEncoder, ImageEncoder, LSTMTextEncoder, WindowTextEncoder
from models.gathering import Gather, gather_rows, own_rows
from models.losses.matching import (
    MatchingLoss,
    match_binary,
    match_choice,
    match_cross_entropy,
    match_regression,
)
from models.losses.memory_queue import MemoryQueue
from models.losses.metric_learning import (
    MinedLoss,
    SoftmaxLoss,
    TripletLoss,
    adaptive_quadruplet_loss,
    batch_hard_loss,
    margin_sample_mining_loss,
    quadruplet_loss,
    semi_hard_loss,
)
from models.losses.ranking import CaptionedLoss, ContrastiveLoss, HingeLoss
from models.oscar import Oscar
from models.vsrn import VSRN, RegionEncoder


def _image_encoder(cfg: CfgNode, feature_norm: FeatureNorm | None) -> ImageEncoder | CnnImageEncoder:
    if cfg.MODEL.CNN:
        cnn = Cnn(cfg.MODEL.CNN)
        return CnnImageEncoder(cnn, _image_map(cfg, cnn.feature_dim, None))
    return _image_map(cfg, cfg.INPUT.IMG_FEATURE_DIM, feature_norm)


def _image_map(cfg: CfgNode, feature_dim: int, feature_norm: FeatureNorm | None) -> ImageEncoder:
    return ImageEncoder(
        feature_dim=feature_dim,
        embed_dim=cfg.MODEL.EMBED_DIM,
        normalize=not cfg.MODEL.NO_IMGNORM,
        absolute=cfg.MODEL.USE_ABS,
        dropout=cfg.MODEL.IMAGE_DROPOUT,
        feature_norm=feature_norm,
    )


def _region_encoder(cfg: CfgNode, feature_norm: FeatureNorm | None) -> RegionEncoder:
    return RegionEncoder(
        feature_dim=cfg.INPUT.IMG_FEATURE_DIM,
        embed_dim=cfg.MODEL.EMBED_DIM,
        num_blocks=cfg.MODEL.GRAPH_BLOCKS,
        direction_dim=cfg.MODEL.DIRECTION_DIM,
        norm_regions=cfg.MODEL.NORM_REGIONS,
        batch_norm=cfg.MODEL.IMAGE_BATCHNORM,
        normalize=not cfg.MODEL.NO_IMGNORM,
        absolute=cfg.MODEL.USE_ABS,
        dropout=cfg.MODEL.IMAGE_DROPOUT,
        feature_norm=feature_norm,
    )


def _lstm(cfg: CfgNode, vocab_size: int) -> LSTMTextEncoder:
    return LSTMTextEncoder(
        vocab_size=vocab_size,
        word_dim=cfg.MODEL.WORD_DIM,
        embed_dim=cfg.MODEL.EMBED_DIM,
        pooling=cfg.MODEL.TEXT_POOLING,
        dropout=cfg.MODEL.TEXT_DROPOUT,
        absolute=cfg.MODEL.USE_ABS,
    )


def _text_encoder(cfg: CfgNode, vocab_size: int) -> GRUTextEncoder | WindowTextEncoder:
    if cfg.MODEL.TEXT_WINDOW:
        return WindowTextEncoder(
            vocab_size=vocab_size,
            word_dim=cfg.MODEL.WORD_DIM,
            embed_dim=cfg.MODEL.EMBED_DIM,
            window=cfg.MODEL.TEXT_WINDOW,
            dropout=cfg.MODEL.TEXT_DROPOUT,
            absolute=cfg.MODEL.USE_ABS,
        )
    return GRUTextEncoder(
        vocab_size=vocab_size,
        word_dim=cfg.MODEL.WORD_DIM,
        embed_dim=cfg.MODEL.EMBED_DIM,
        num_layers=cfg.MODEL.NUM_LAYERS,
        bidirectional=cfg.MODEL.BIDIRECTIONAL,
        pooling=cfg.MODEL.TEXT_POOLING,
        dropout=cfg.MODEL.TEXT_DROPOUT,
        absolute=cfg.MODEL.USE_ABS,
    )


def _captioner(cfg: CfgNode, vocab_size: int) -> Captioner | None:
    if not cfg.LOSS.CAPTION_WEIGHT:
        return None
    return Captioner(
        region_dim=cfg.MODEL.EMBED_DIM,
        vocab_size=vocab_size,
        word_dim=cfg.MODEL.CAPTION_WORD_DIM,
        hidden_dim=cfg.MODEL.CAPTION_DIM,
        max_len=cfg.MODEL.CAPTION_MAX_LEN,
        dropout=cfg.MODEL.CAPTION_DROPOUT,
    )


def _gather(cfg: CfgNode) -> Gather:
    return gather_rows if cfg.LOSS.CROSS_RANK_NEGATIVES else own_rows


def _vse(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> DualEncoder:
    encoders = _image_encoder(cfg, feature_norm), _lstm(cfg, vocab_size)
    return DualEncoder(*encoders, cfg.MODEL.MEASURE, _gather(cfg))


def _vsepp(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> DualEncoder:
    encoders = _image_encoder(cfg, feature_norm), _text_encoder(cfg, vocab_size)
    return DualEncoder(*encoders, cfg.MODEL.MEASURE, _gather(cfg))


def _vsrn(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> VSRN:
    encoder, captioner = _region_encoder(cfg, feature_norm), _captioner(cfg, vocab_size)
    return VSRN(encoder, _text_encoder(cfg, vocab_size), cfg.MODEL.MEASURE, captioner, _gather(cfg))


def _oscar(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> Oscar:
    return Oscar(
        bert_shape(cfg, vocab_size),
        num_labels=cfg.OUTPUT.NUM_LABELS,
        classifier=cfg.MODEL.CLASSIFIER,
        classifier_scale=cfg.MODEL.CLASSIFIER_SCALE,
        attention=cfg.INPUT.ATT_MASK_TYPE,
        feature_norm=feature_norm,
        guesses_words=cfg.LOSS.WORD_WEIGHT > 0,
    )


def bert_shape(cfg: CfgNode, vocab_size: int) -> BertShape:
    """Return the sizes of the configured BERT with a vocabulary of `vocab_size` word pieces."""
    model = cfg.MODEL
    return BertShape(
        vocab_size=vocab_size,
        hidden_dim=model.BERT_DIM,
        num_layers=model.BERT_LAYERS,
        num_heads=model.BERT_HEADS,
        inner_dim=model.BERT_INNER_DIM,
        max_positions=model.BERT_POSITIONS,
        norm_epsilon=model.BERT_NORM_EPSILON,
        region_dim=cfg.INPUT.IMG_FEATURE_DIM,
        region_norm=model.IMG_LAYERNORM,
        region_norm_epsilon=model.IMG_LAYERNORM_EPSILON,
        dropout=model.BERT_DROPOUT,
        attention_dropout=model.BERT_ATTENTION_DROPOUT,
        initial_deviation=model.BERT_DEVIATION,
        position_waves=model.BERT_POSITION_START == "waves",
    )


def _cnn(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> ImageEmbedder:
    return ImageEmbedder(Cnn(cfg.MODEL.CNN), cfg.MODEL.CNN_DIM)


MODELS = {"vse": _vse, "vsepp": _vsepp, "vsrn": _vsrn, "oscar": _oscar, "cnn": _cnn}


def build_model(
    cfg: CfgNode,
    vocab_size: int,
    feature_mean: np.ndarray | None = None,
    feature_std: np.ndarray | None = None,
) -> DualEncoder | Oscar | ImageEmbedder:
    """Return the model that `cfg.MODEL` describes, with initial weights.

    With INPUT.STANDARDIZE, `feature_mean` and `feature_std` [F] are the mean and the standard deviation of
    the training split's features. Leave them out if a checkpoint is loaded next, since a checkpoint holds
    them. Raises ValueError for an unknown MODEL.NAME.
    """
    if cfg.MODEL.NAME not in MODELS:
        raise ValueError(f"MODEL.NAME: expected one of {sorted(MODELS)}, got {cfg.MODEL.NAME!r}")
    norm = None
    if cfg.INPUT.STANDARDIZE:
        norm = FeatureNorm(cfg.INPUT.IMG_FEATURE_DIM, feature_mean, feature_std)
    return MODELS[cfg.MODEL.NAME](cfg, vocab_size, norm)


def _queue(cfg: CfgNode) -> MemoryQueue | None:
    if not cfg.LOSS.QUEUE_SIZE:
        return None
    similarity = SIMILARITIES[cfg.MODEL.MEASURE]
    return MemoryQueue(cfg.LOSS.QUEUE_SIZE, cfg.MODEL.EMBED_DIM, cfg.LOSS.QUEUE_START, similarity)


def _hinge(cfg: CfgNode) -> HingeLoss:
    return HingeLoss(
        margin=cfg.LOSS.MARGIN,
        hard_negative=cfg.LOSS.HARD_NEGATIVE,
        sum_epochs=cfg.LOSS.SUM_EPOCHS,
        mask_duplicates=cfg.LOSS.MASK_DUPLICATES,
        gather=_gather(cfg),
        queue=_queue(cfg),
    )


def _contrastive(cfg: CfgNode) -> ContrastiveLoss:
    return ContrastiveLoss(cfg.LOSS.TEMPERATURE, cfg.LOSS.MASK_DUPLICATES, _gather(cfg), _queue(cfg))


def _mined(cfg: CfgNode) -> MinedLoss:
    first, second = cfg.LOSS.MARGIN, cfg.LOSS.SECOND_MARGIN
    losses = {
        "batch_hard": lambda distances, labels: batch_hard_loss(distances, labels, first),
        "semi_hard": lambda distances, labels: semi_hard_loss(distances, labels, first),
        "quadruplet": lambda distances, labels: quadruplet_loss(distances, labels, first, second),
        "adaptive_quadruplet": adaptive_quadruplet_loss,
        "margin_sample_mining": lambda distances, labels: margin_sample_mining_loss(distances, labels, first),
    }
    return MinedLoss(cfg.LOSS.NAME, losses[cfg.LOSS.NAME], _gather(cfg))


LOSSES = {
    "hinge": _hinge,
    "contrastive": _contrastive,
    "match_cross_entropy": lambda cfg: MatchingLoss(match_cross_entropy, cfg.LOSS.WORD_WEIGHT),
    "match_binary": lambda cfg: MatchingLoss(match_binary, cfg.LOSS.WORD_WEIGHT),
    "match_regression": lambda cfg: MatchingLoss(match_regression, cfg.LOSS.WORD_WEIGHT),
    "match_choice": lambda cfg: MatchingLoss(match_choice, cfg.LOSS.WORD_WEIGHT),
    "triplet": lambda cfg: TripletLoss(cfg.LOSS.MARGIN),
    "batch_hard": _mined,
    "semi_hard": _mined,
    "quadruplet": _mined,
    "adaptive_quadruplet": _mined,
    "margin_sample_mining": _mined,
}


def build_loss(cfg: CfgNode, embed_dim: int = 0, num_classes: int = 0) -> nn.Layer:
    """Return the loss that `cfg.LOSS` describes; it is called as `loss(outputs, batch, epoch)`.

    The softmax loss needs the width of the embedding, `embed_dim`, and `num_classes`, the number of classes
    in the training split. Raises ValueError for an unknown LOSS.NAME.
    """
    if cfg.LOSS.NAME == "softmax":
        return SoftmaxLoss(embed_dim, num_classes, cfg.LOSS.LABEL_SMOOTHING)
    if cfg.LOSS.NAME not in LOSSES:
        raise ValueError(f"LOSS.NAME: expected one of {sorted(LOSSES)}, got {cfg.LOSS.NAME!r}")
    loss = LOSSES[cfg.LOSS.NAME](cfg)
    return CaptionedLoss(loss, cfg.LOSS.CAPTION_WEIGHT) if cfg.MODEL.NAME == "vsrn" else loss
