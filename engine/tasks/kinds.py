"""Chooses the module of a kind of model. The three modules have the same four functions.

training(cfg, start) -> Task            what the trainer needs: model, loss, data, batches
load(cfg) -> Trained                    the trained model of a checkpoint
measure(cfgs, options) -> Measured      the numbers of an evaluation; None in all processes but the first
reports(cfg) -> ReportedRun             what a report shows of a run
"""

from types import ModuleType

from yacs.config import CfgNode

from config.families import FAMILIES
from engine.tasks import cross, dual, image

KINDS = {"dual": dual, "cross": cross, "image": image}


def kind_of(cfg: CfgNode) -> ModuleType:
    """Return the module of the kind of model that `cfg` names."""
    return KINDS[FAMILIES[cfg.MODEL.NAME].kind]
