"""Build the configured model and loss."""

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from models.captioner import Captioner
from models.encoders import FeatureNorm, GRUTextEncoder, ImageEncoder, LSTMTextEncoder
from models.losses import CaptionedLoss, ContrastiveLoss, HingeLoss
from models.vse import DualEncoder
from models.vsrn import VSRN, RegionEncoder


def _image_encoder(cfg: CfgNode, feature_norm: FeatureNorm | None) -> ImageEncoder:
    return ImageEncoder(
        feature_dim=cfg.INPUT.IMG_FEATURE_DIM,
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


def _vse(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> DualEncoder:
    return DualEncoder(_image_encoder(cfg, feature_norm), _lstm(cfg, vocab_size), cfg.MODEL.MEASURE)


def _vsepp(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> DualEncoder:
    return DualEncoder(_image_encoder(cfg, feature_norm), _gru(cfg, vocab_size), cfg.MODEL.MEASURE)


def _vsrn(cfg: CfgNode, vocab_size: int, feature_norm: FeatureNorm | None) -> VSRN:
    encoder, captioner = _region_encoder(cfg, feature_norm), _captioner(cfg, vocab_size)
    return VSRN(encoder, _gru(cfg, vocab_size), cfg.MODEL.MEASURE, captioner)


MODELS = {"vse": _vse, "vsepp": _vsepp, "vsrn": _vsrn}


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
    if cfg.MODEL.NAME not in MODELS:
        raise ValueError(f"MODEL.NAME: expected one of {sorted(MODELS)}, got {cfg.MODEL.NAME!r}")
    norm = None
    if cfg.INPUT.STANDARDIZE:
        norm = FeatureNorm(cfg.INPUT.IMG_FEATURE_DIM, feature_mean, feature_std)
    return MODELS[cfg.MODEL.NAME](cfg, vocab_size, norm)


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
    loss = LOSSES[cfg.LOSS.NAME](cfg)
    return CaptionedLoss(loss, cfg.LOSS.CAPTION_WEIGHT) if cfg.MODEL.NAME == "vsrn" else loss
