"""Writes a converted checkpoint as a run folder that evaluation, search and further training take."""

import json
from collections.abc import Callable
from pathlib import Path

from config.errors import UserError
from config.files.whole import refuse_existing, writing
from config.load import FrozenConfig, config_as_dict, load_config, save_config
from config.progress import ShowProgress
from engine.conversion.conversion import Conversion, Given
from engine.conversion.rules import converted
from engine.conversion.sheet import sheet_of
from engine.runs.checkpoint import MODEL_FILE, write_state
from engine.runs.run_folder import RunFolder
from engine.runs.run_status import SHEET_FILE
from engine.weights.tensor_files import stream_safetensors

Compare = Callable[[Path, FrozenConfig], dict]

# What the shapes and names of tensors say, and no user knows better.
_OF_WEIGHTS = {
    *("MODEL.NAME", "MODEL.CNN", "MODEL.EMBED_DIM", "MODEL.WORD_DIM", "MODEL.NUM_LAYERS"),
    *("MODEL.BIDIRECTIONAL", "MODEL.GRAPH_BLOCKS", "MODEL.IMAGE_BATCHNORM"),
    *("MODEL.BERT_DIM", "MODEL.BERT_INNER_DIM", "MODEL.BERT_LAYERS", "MODEL.BERT_POSITIONS"),
    *("MODEL.CAPTION_DIM", "MODEL.CAPTION_WORD_DIM"),
}
_OF_IMAGES = {"INPUT.IMG_FEATURE_DIM", "MODEL.IMG_LAYERNORM"}  # of layers that a plain BERT lacks


def configuration(conversion: Conversion, given: Given, output: Path) -> FrozenConfig:
    """Return the configuration of the run at `output`; the user's KEY=VALUE override the checkpoint's.

    Raises UserError for a value that a key does not admit, or that contradicts the weights.
    """
    folder = output if output.name not in ("", "..") else output.absolute()
    own = [f"OUTPUT.CHECKPOINT_DIR={folder.parent}", f"OUTPUT.SAVE_NAME={folder.name}"]
    settings = [*conversion.settings, *own, *given.overrides]
    known = _OF_WEIGHTS if conversion.untrained else _OF_WEIGHTS | _OF_IMAGES
    of_weights = [each for each in conversion.settings if each.partition("=")[0] in known]
    try:
        cfg, fitting = load_config(None, settings), load_config(None, [*settings, *of_weights])
    except UserError as error:
        raise UserError(f"{conversion.source.path}: {error}") from error
    for key in (each.partition("=")[0] for each in of_weights):
        section, name = key.split(".")
        if cfg[section][name] != fitting[section][name]:
            raise UserError(
                f"{conversion.source.path}: {key}: the weights say {fitting[section][name]}, got "
                f"{cfg[section][name]}: leave it out"
            )
    return cfg


def write_run(
    conversion: Conversion,
    given: Given,
    output: Path,
    overwrite: bool,
    show: ShowProgress,
    compare: Compare | None = None,
) -> dict:
    """Write the run folder `output` whole or not at all, and return its parity sheet.

    It holds `best/` (weights, vocabulary, state), `config.yaml`, an empty `log.jsonl` and `conversion.json`.
    `compare` is called with the checkpoint and its configuration, and returns the sheet's `reference`.
    """
    cfg = configuration(conversion, given, output)
    path = conversion.source.path
    tensors = {rule.ours: converted(rule, conversion.tensors, path) for rule in conversion.rules}
    sheet = sheet_of(conversion, tensors)
    with writing(output) as draft:
        run = RunFolder(draft)
        run.best.mkdir(parents=True)
        known = {MODEL_FILE: stream_safetensors(run.best / MODEL_FILE, tensors, show)}
        if conversion.words is not None:
            text = conversion.words.to_text()
            (run.best / conversion.words.file_name).write_text(text, encoding="utf-8")
        state = {
            "model": cfg.MODEL.NAME,
            "config": config_as_dict(cfg),
            "progress": {"step": _step(conversion)},
            "untrained": conversion.untrained,
        }
        write_state(run.best, state, known)
        if compare is not None:
            sheet["reference"] = compare(run.best, cfg)
        save_config(cfg, run.config_file)
        run.log_file.touch()
        (draft / SHEET_FILE).write_text(
            json.dumps(sheet, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        refuse_existing(output, overwrite)
    return sheet


def _step(conversion: Conversion) -> int:
    steps = conversion.source.entries.get("Eiters", 0)
    return steps if type(steps) is int and steps >= 0 else 0
