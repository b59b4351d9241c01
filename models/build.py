"""Build the configured model and loss."""

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from models.encoders import FeatureNorm, GRUTextEncoder, ImageEncoder, LSTMTextEncoder
from models.losses import ContrastiveLoss, HingeLoss
from models.vse import DualEncoder


def _image_encoder(
    cfg: CfgNode, feature_mean: np.ndarray | None, feature_std: np.ndarray | None
) -> ImageEncoder:
    dim = cfg.INPUT.IMG_FEATURE_DIM
    return ImageEncoder(
        feature_dim=dim,
        embed_dim=cfg.MODEL.EMBED_DIM,
        normalize=not cfg.MODEL.NO_IMGNORM,
        absolute=cfg.MODEL.USE_ABS,
        dropout=cfg.MODEL.IMAGE_DROPOUT,
        feature_norm=FeatureNorm(dim, feature_mean, feature_std) if cfg.INPUT.STANDARDIZE else None,
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


def _gru(cfg: CfgNode, vocab_size: int) -> GRUTextEncoder:
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


TEXT_ENCODERS = {"vse": _lstm, "vsepp": _gru}


def build_model(
    cfg: CfgNode,
    vocab_size: int,
    feature_mean: np.ndarray | None = None,
    feature_std: np.ndarray | None = None,
) -> DualEncoder:
    """Return the model that `cfg.MODEL` names, with fresh weights.

    With INPUT.STANDARDIZE, `feature_mean` and `feature_std` [F] are the training split's; leave them
    out when a checkpoint, which holds them, is loaded next.
    """
    if cfg.MODEL.NAME not in TEXT_ENCODERS:
        raise ValueError(f"MODEL.NAME: expected one of {sorted(TEXT_ENCODERS)}, got {cfg.MODEL.NAME!r}")
    return DualEncoder(
        image_encoder=_image_encoder(cfg, feature_mean, feature_std),
        text_encoder=TEXT_ENCODERS[cfg.MODEL.NAME](cfg, vocab_size),
        measure=cfg.MODEL.MEASURE,
    )


def _hinge(cfg: CfgNode) -> HingeLoss:
    return HingeLoss(
        margin=cfg.LOSS.MARGIN,
        hard_negative=cfg.LOSS.HARD_NEGATIVE,
        sum_epochs=cfg.LOSS.SUM_EPOCHS,
        mask_duplicates=cfg.LOSS.MASK_DUPLICATES,
    )


def _contrastive(cfg: CfgNode) -> ContrastiveLoss:
    return ContrastiveLoss(temperature=cfg.LOSS.TEMPERATURE, mask_duplicates=cfg.LOSS.MASK_DUPLICATES)


LOSSES = {"hinge": _hinge, "contrastive": _contrastive}


def build_loss(cfg: CfgNode) -> nn.Layer:
    """Return the loss that `cfg.LOSS` names; it is called as `loss(outputs, batch, epoch)`."""
    if cfg.LOSS.NAME not in LOSSES:
        raise ValueError(f"LOSS.NAME: expected one of {sorted(LOSSES)}, got {cfg.LOSS.NAME!r}")
    return LOSSES[cfg.LOSS.NAME](cfg)
