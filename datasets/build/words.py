"""From the configuration to what cuts a caption into ids: words or word pieces, as the family reads them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

Words = Vocabulary | WordPiece


def load_words(cfg: CfgNode, folder: str | Path) -> Words:
    """Read the words of a folder with a model's weights.

    Raises `UserError` where the folder has none.
    """
    kind = WordPiece if _reads_pieces(cfg) else Vocabulary
    path = Path(folder) / kind.file_name
    if not path.is_file():
        raise UserError(f"checkpoint {path.parent} lacks {path.name}; use another checkpoint")
    return WordPiece.load(path, cfg.INPUT.DO_LOWER_CASE) if _reads_pieces(cfg) else Vocabulary.load(path)


def build_words(cfg: CfgNode, texts: Callable[[], Iterable[str]], source: str) -> Words:
    """Load INPUT.VOCAB_FILE, or collect the words of what `texts()` returns; `source` names it in errors.

    Raises `UserError` for a vocabulary without words, or a file made with another tokenizer.
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
