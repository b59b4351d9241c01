"""VSE (Kiros et al. 2014) as its PyTorch port stores it (linxd5/VSE_Pytorch): an LSTM and a linear map."""

from pathlib import Path

from config.errors import UserError
from datasets.words.vocabulary import Vocabulary
from engine.conversion.conversion import Conversion, Given, Source, check_options, stored_settings
from engine.conversion.rules import check_tensors, linear, same, shape_of
from engine.conversion.vocabularies import (
    dictionary_of,
    free_rows,
    is_ours,
    own_vocabulary,
    read_content,
    unpickle_words,
    words_of,
)
from engine.weights.state_dicts import Tensors

_WHAT = "VSE (Kiros)"
_KEYS = {
    "data": "DATASET.NAME",
    "margin": "LOSS.MARGIN",
    "grad_clip": "OPTIMIZATION.CLIP_MAX_NORM",
    "lrate": "OPTIMIZATION.LR",
    "learning_rate": "OPTIMIZATION.LR",
    "batch_size": "OPTIMIZATION.BATCH_SIZE",
    "max_epochs": "OPTIMIZATION.EPOCHS",
}
OWN = ("linear", "lstm", "embedding")


def is_vse(tensors: Tensors) -> bool:
    """Tell whether the tensors are those of the port."""
    return {"linear.weight", "lstm.weight_ih_l0", "embedding.weight"} <= tensors.keys()


def convert(source: Source, given: Given) -> Conversion:
    """Return the conversion of a VSE; its options lie beside it, in a file with `params` in place of `model`.

    Raises UserError as `vsepp.convert` does.
    """
    source = _with_options(source)
    rows, word = shape_of(source.path, source.tensors, "embedding.weight", 2, _WHAT)
    dim, features = shape_of(source.path, source.tensors, "linear.weight", 2, _WHAT)
    expected = {
        "linear.weight": (dim, features),
        "linear.bias": (dim,),
        "embedding.weight": (rows, word),
        "lstm.weight_ih_l0": (4 * dim, word),
        "lstm.weight_hh_l0": (4 * dim, dim),
        "lstm.bias_ih_l0": (4 * dim,),
        "lstm.bias_hh_l0": (4 * dim,),
    }
    check_tensors(source.path, source.tensors, expected, _WHAT)
    check_options(source, {"dim_image": features, "dim": dim, "dim_word": word, "n_words": rows})
    if given.vocabulary is None:
        raise UserError(
            f"{source.path}: it stores no vocabulary: give the dictionary that it was trained with, such as "
            "f8k.dictionary.pkl, with --vocabulary FILE"
        )
    vocabulary, notes = _dictionary(given.vocabulary, rows)
    rules = [
        *linear("linear", "image_encoder.fc"),
        same("embedding.weight", "text_encoder.embed.weight"),
        *(
            same(name, f"text_encoder.rnn.{name.removeprefix('lstm.')}")
            for name in expected
            if "lstm" in name
        ),
    ]
    settings = [
        "MODEL.NAME=vse",
        f"MODEL.EMBED_DIM={dim}",
        f"MODEL.WORD_DIM={word}",
        f"INPUT.IMG_FEATURE_DIM={features}",
        f"INPUT.TOKENIZER={vocabulary.tokenizer}",
        "INPUT.VOCAB_LAYOUT=vse",
        "LOSS.HARD_NEGATIVE=false",
        "OPTIMIZATION.BATCHING=same_length",
        *stored_settings(source, _KEYS),
    ]
    return Conversion(_WHAT, source, rules, source.tensors, settings, vocabulary, notes=notes)


def _dictionary(path: Path, rows: int) -> tuple[Vocabulary, list[str]]:
    """Return the dictionary in a file, or this toolkit's vocabulary, and notes on it."""
    content = read_content(path)
    if is_ours(content):
        return own_vocabulary(path, rows), []
    words = words_of(content, path)
    vocabulary = dictionary_of(words, path, rows)
    return vocabulary, words.notes + free_rows(vocabulary, path)


def _with_options(source: Source) -> Source:
    beside = source.path.with_name(source.path.name.replace("model", "params"))
    if beside == source.path or not beside.is_file():
        return source
    options = unpickle_words(Path(beside))
    if not isinstance(options, dict):
        raise UserError(
            f"{beside}: expected the options of {source.path.name}, a dict: take it away, or mend it"
        )
    return Source(source.path, source.tensors, options, source.entries, source.prefix)
