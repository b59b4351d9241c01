"""What VSE++, SCAN and VSRN have in common: two encoders in a list, a text GRU, options, a vocabulary."""

import re
from pathlib import Path

from config.errors import UserError
from datasets.words.vocabulary import Vocabulary
from engine.conversion.conversion import Given, Source
from engine.conversion.rules import Rule, same, shape_of
from engine.conversion.vocabularies import is_ours, own_vocabulary, read_content, vocabulary_of, words_of
from engine.weights.state_dicts import Tensors, is_state_dict, state_dict_of, without_prefix

PARTS = ("img", "txt", "cap")
_OWN = ("fc", "cnn", "img_rnn", "bn", "embed", "rnn", "encoder", "decoder", "mlp", "gpool", "linear", "bert")
_OWN += tuple(f"Rs_GCN_{block}" for block in range(1, 9))
# Options of the originals that are named alike in all three, and our keys.
TRAINING_KEYS = {
    "data_name": "DATASET.NAME",
    "margin": "LOSS.MARGIN",
    "max_violation": "LOSS.HARD_NEGATIVE",
    "grad_clip": "OPTIMIZATION.CLIP_MAX_NORM",
    "learning_rate": "OPTIMIZATION.LR",
    "lr_update": "OPTIMIZATION.LR_STEP_EPOCHS",
    "batch_size": "OPTIMIZATION.BATCH_SIZE",
    "num_epochs": "OPTIMIZATION.EPOCHS",
    "log_step": "MONITOR.PRINT_STEP",
    "val_step": "MONITOR.EVAL_STEP",
}


def dual_source(content: object, path: Path) -> Source | None:
    """Return the encoders in `content`, `[image, text]` or with a caption decoder; None if there are none."""
    if not isinstance(content, dict):
        return None
    model = content.get("model", content.get("state_dict"))
    if isinstance(model, dict) and {"img_enc", "txt_enc"} <= model.keys():
        model = [model["img_enc"], model["txt_enc"]]
    if is_state_dict(model or content):
        model = _by_encoder(state_dict_of(content, path))
    if not isinstance(model, list | tuple) or not 2 <= len(model) <= 3 or not all(map(is_state_dict, model)):
        return None
    tensors, prefix = {}, ""
    for part, inner in zip(PARTS, model, strict=False):
        named, prefix = without_prefix(state_dict_of(inner, path), _OWN)
        tensors |= {f"{part}.{name}": tensor for name, tensor in named.items()}
    options = content.get("opt")
    entries = {name: value for name, value in content.items() if type(value) in (int, float)}
    return Source(path, tensors, options if isinstance(options, dict) else {}, entries, prefix)


def _by_encoder(tensors: Tensors) -> list[Tensors] | None:
    """Return the two encoders' tensors of a state dict of the whole model, named img_enc.* and txt_enc.*."""
    tensors, _ = without_prefix(tensors, ("img_enc", "txt_enc"))
    parts = [
        {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{part}.")
        }
        for part in ("img_enc", "txt_enc")
    ]
    return parts if all(parts) else None


def text_tensors(source: Source, what: str) -> tuple[dict[str, tuple[int, ...]], list[Rule], dict[str, int]]:
    """Return the expected tensors of a text GRU, their rules, and its sizes by the options' names.

    The sizes are `vocab_size`, `word_dim`, `embed_size`, `num_layers` and `bi_gru`.
    """
    vocab, word = shape_of(source.path, source.tensors, "txt.embed.weight", 2, what)
    rows, size = shape_of(source.path, source.tensors, "txt.rnn.weight_hh_l0", 2, what)
    layers = len([name for name in source.tensors if re.fullmatch(r"txt\.rnn\.weight_ih_l\d+", name)])
    both_ways = "txt.rnn.weight_ih_l0_reverse" in source.tensors
    if rows != 3 * size:
        raise UserError(
            f"{source.path}: tensor txt.rnn.weight_hh_l0 is [{rows}, {size}], expected a GRU's [3D, D]"
        )
    expected: dict[str, tuple[int, ...]] = {"txt.embed.weight": (vocab, word)}
    for layer in range(layers):
        inputs = word if layer == 0 else size * (1 + both_ways)
        for way in ("", "_reverse") if both_ways else ("",):
            end = f"l{layer}{way}"
            expected[f"txt.rnn.weight_ih_{end}"] = (3 * size, inputs)
            expected[f"txt.rnn.weight_hh_{end}"] = (3 * size, size)
            expected[f"txt.rnn.bias_ih_{end}"] = expected[f"txt.rnn.bias_hh_{end}"] = (3 * size,)
    rules = [same(name, name.replace("txt.", "text_encoder.", 1)) for name in expected]
    sizes = {"vocab_size": vocab, "word_dim": word, "embed_size": size, "num_layers": layers}
    return expected, rules, sizes | {"bi_gru": both_ways}


def text_settings(sizes: dict[str, int]) -> list[str]:
    """Return the settings of a text GRU with these sizes."""
    return [
        f"MODEL.EMBED_DIM={sizes['embed_size']}",
        f"MODEL.WORD_DIM={sizes['word_dim']}",
        f"MODEL.NUM_LAYERS={sizes['num_layers']}",
        f"MODEL.BIDIRECTIONAL={str(sizes['bi_gru']).lower()}",
    ]


def similarity_settings(source: Source, given: Given) -> list[str]:
    """Return how image and text are compared, from the stored options or the user's.

    Raises UserError that names the keys if neither says.
    """
    keys = {"measure": "MODEL.MEASURE", "use_abs": "MODEL.USE_ABS", "no_imgnorm": "MODEL.NO_IMGNORM"}
    missing = [key for key in keys.values() if not given.sets(key)]
    if not source.options and missing:
        raise UserError(
            f"{source.path}: it stores no options (opt), so say how it compares: add "
            f"{' '.join(missing)}, each with the value that it was trained with, such as "
            "MODEL.MEASURE=cosine MODEL.USE_ABS=false MODEL.NO_IMGNORM=false"
        )
    measure = source.options.get("measure", "cosine")
    if measure not in ("cosine", "order"):
        raise UserError(
            f"{source.path}: its options say measure={str(measure)[:40]}, expected cosine or order"
        )
    flags = {key: bool(source.options.get(name)) for name, key in keys.items() if name != "measure"}
    return [f"MODEL.MEASURE={measure}", *(f"{key}={str(flag).lower()}" for key, flag in flags.items())]


def trained_vocabulary(source: Source, given: Given, rows: int) -> tuple[Vocabulary, list[str]]:
    """Return the vocabulary that the user gives, and notes on it; raise UserError if there is none."""
    if given.vocabulary is None:
        name = source.options.get("data_name")
        usual = f", such as {name}_vocab.pkl or .json" if isinstance(name, str) and name.isprintable() else ""
        raise UserError(
            f"{source.path}: it stores no vocabulary: give the one that it was trained with, of {rows:,} "
            f"words{usual}, with --vocabulary FILE"
        )
    content = read_content(given.vocabulary)
    if is_ours(content):
        return own_vocabulary(given.vocabulary, rows), []
    words = words_of(content, given.vocabulary)
    return vocabulary_of(words, given.vocabulary, rows), words.notes
