"""Exports a trained model: graphs, vocabulary and description in one folder, which appears whole or not."""

from collections.abc import Callable
from pathlib import Path

from yacs.config import CfgNode

from config.families import FAMILIES
from config.files.bundles import write_description
from config.files.whole import writing
from engine.export.bundle_writer import describe, write_graphs, write_words
from engine.export.evidence import Encoders, gather_evidence
from engine.export.graphs.paddle import write_paddle_graphs
from engine.export.proof import state_proof
from engine.tasks.kinds import kind_of

OpenBundle = Callable[[Path], Encoders]


def export_model(
    cfg: CfgNode, out: Path, graphs_for: str, precision: str, max_loss: float, open_bundle: OpenBundle
) -> tuple[dict, str]:
    """Write the bundle of the trained model that `cfg` names; return its description, and what it is of.

    `graphs_for` is "onnx" or "paddle". `open_bundle` opens a bundle as its readers do, so that the proof
    covers their code. Raises UserError, and leaves nothing behind, for graphs that fail the proof (see
    `state_proof`) and for a disk that refuses.
    """
    trained = kind_of(cfg).load(cfg)
    content = describe(cfg, trained, precision)
    with writing(out, "free some space, or choose another --out") as draft:
        draft.mkdir()
        if graphs_for == "paddle":
            graphs, quantised = write_paddle_graphs(cfg, trained, draft), 0
        else:
            graphs, quantised = write_graphs(cfg, trained, draft, precision)
        write_words(trained, draft)
        content = {**content, "runtime": graphs_for, "graphs": graphs, "proof": None}
        write_description(draft, content)
        evidence = gather_evidence(cfg, FAMILIES[cfg.MODEL.NAME].kind, trained, open_bundle(draft))
        content["proof"] = state_proof(evidence, precision, quantised, max_loss)
        description = write_description(draft, content)
    return description, trained.describe()
