"""Build what turns a caption into ids from the configuration: words or word pieces, as the family reads."""

from collections.abc import Callable, Iterable
from pathlib import Path

from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

Words = Vocabulary | WordPiece


def load_words(cfg: CfgNode, folder: str | Path) -> Words:
    """Load the vocabulary that lies in a folder beside a model's weights.

    Raises `UserError` if the folder has none.
    """
    kind = WordPiece if _reads_pieces(cfg) else Vocabulary
    path = Path(folder) / kind.file_name
    if not path.is_file():
        raise UserError(f"checkpoint {path.parent} lacks {path.name}; use another checkpoint")
    return WordPiece.load(path, cfg.INPUT.DO_LOWER_CASE) if _reads_pieces(cfg) else Vocabulary.load(path)


def build_words(cfg: CfgNode, texts: Callable[[], Iterable[str]], source: str) -> Words:
    """Load INPUT.VOCAB_FILE, or build a vocabulary from the texts that `texts()` returns.

    `source` names the texts in errors. Raises `UserError` for a vocabulary without words, or a file made with
    another tokenizer.
    """
    inputs = cfg.INPUT
    if _reads_pieces(cfg):
        if inputs.VOCAB_FILE:
            return WordPiece.load(inputs.VOCAB_FILE, inputs.DO_LOWER_CASE)
        return WordPiece.build(texts(), inputs.VOCAB_THRESHOLD, inputs.DO_LOWER_CASE)
    if inputs.VOCAB_FILE:
        return _vocabulary_of_file(inputs.VOCAB_FILE, inputs.TOKENIZER)
    return Vocabulary.build(texts(), inputs.TOKENIZER, inputs.VOCAB_THRESHOLD, inputs.VOCAB_LAYOUT, source)


def _reads_pieces(cfg: CfgNode) -> bool:
    return FAMILIES[cfg.MODEL.NAME].text == "pieces"


def _vocabulary_of_file(path: str, tokenizer: str) -> Vocabulary:
    vocabulary = Vocabulary.load(path, tokenizer)
    if vocabulary.tokenizer != tokenizer:
        raise UserError(
            f"{path}: made with the tokenizer {vocabulary.tokenizer}, INPUT.TOKENIZER is {tokenizer}: "
            f"add INPUT.TOKENIZER={vocabulary.tokenizer}"
        )
    return vocabulary
