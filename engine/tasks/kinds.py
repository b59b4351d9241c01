"""The three kinds of model. Each module has the same four functions.

training(cfg, start) -> Task            what the trainer asks for
load(cfg) -> Trained                    a trained model
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
