"""The certificate of an evaluation, as EVAL asks for it."""

from collections.abc import Sequence

from yacs.config import CfgNode

from datasets.pair_dataset import PairDataset
from datasets.pairs import folds_of_images
from datasets.retrieval_dataset import RetrievalDataset
from engine.certificates.sides import Sides
from engine.certificates.stored import Certificate, certificate_of
from engine.inspection.kept_lists import ListKeeper


def certified(cfg: CfgNode, sides: Sides, over: str = "images") -> Certificate | None:
    """Return the certificate of the ranks `sides`; None if EVAL.RESAMPLES is 0."""
    return certificate_of(sides, cfg.EVAL.TIE_RULE, cfg.EVAL.RESAMPLES, cfg.MISC.SEED, over)


def behind(cfg: CfgNode, checkpoint: dict, sides: Sides, over: str = "images") -> dict[str, dict]:
    """Return what stands behind the numbers of a report: the fields `certified` and `settings` of a run."""
    certificate = certified(cfg, sides, over)
    bank, temperature = cfg.EVAL.QUERY_BANK, cfg.EVAL.QUERY_BANK_TEMPERATURE
    data, optimization = cfg.DATASET, cfg.OPTIMIZATION
    settings = {
        "data set": data.NAME or data.FORMAT,
        "trained on": data.TRAIN,
        "chosen on": f"{data.DEV}, by {cfg.MONITOR.BEST_METRIC}",
        "loss": cfg.LOSS.NAME,
        "optimizer": f"{optimization.OPTIMIZER}, learning rate {optimization.LR:g}",
        "epochs": f"{optimization.EPOCHS:g}",
        "batch": str(optimization.BATCH_SIZE),
        "seed": str(cfg.MISC.SEED),
        "weights": f"step {checkpoint['step']}, SHA-256 {checkpoint['sha256'][:12]}",
        **({"query bank": f"{bank}, temperature {temperature:g}"} if bank else {}),
    }
    return {"certified": certificate.metrics if certificate else {}, "settings": settings}


def certificate_entry(certificate: Certificate | None) -> dict[str, dict]:
    """Return the entry `certificate` of `result.json`, an empty dict without one."""
    return {"certificate": certificate.as_dict()} if certificate else {}


def keeper_of(cfg: CfgNode, dataset: RetrievalDataset | PairDataset) -> ListKeeper | None:
    """Return what keeps the EVAL.LIST_LENGTH first items of every query of `dataset`; None if that is 0."""
    image_fold = folds_of_images(dataset.num_images, cfg.EVAL.FOLDS)
    return ListKeeper(dataset, cfg.EVAL.LIST_LENGTH, image_fold) if cfg.EVAL.LIST_LENGTH else None


def names_of(dataset: RetrievalDataset | PairDataset) -> dict[str, Sequence[str]]:
    """Return the names that the results of two models must share to be compared query by query."""
    return {"images": dataset.image_ids, "captions": dataset.captions}
