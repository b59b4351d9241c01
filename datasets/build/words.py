"""Build what turns a caption into ids from the configuration: words or word pieces, as the family reads."""

from collections.abc import Callable, Iterable
from pathlib import Path

from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from datasets.words.letters import runs_words_together
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece

Words = Vocabulary | WordPiece
Say = Callable[[str], None]


def no_line(line: str) -> None:
    """Say nothing."""


def load_words(cfg: CfgNode, folder: str | Path) -> Words:
    """Load the vocabulary that lies in a folder beside a model's weights.

    Raises `UserError` if the folder has none.
    """
    kind = WordPiece if _reads_pieces(cfg) else Vocabulary
    path = Path(folder) / kind.file_name
    if not path.is_file():
        raise UserError(f"checkpoint {path.parent} lacks {path.name}; use another checkpoint")
    return WordPiece.load(path, cfg.INPUT.DO_LOWER_CASE) if _reads_pieces(cfg) else Vocabulary.load(path)


def build_words(cfg: CfgNode, texts: Callable[[], Iterable[str]], source: str, say: Say = no_line) -> Words:
    """Load INPUT.VOCAB_FILE, or build a vocabulary from the texts that `texts()` returns.

    Where the texts run their words together, as Chinese and Thai do, the letters are the tokens; `say` is
    told so. `source` names the texts in errors. Raises `UserError` for a vocabulary without words, or a file
    made with another tokenizer.
    """
    inputs = cfg.INPUT
    if inputs.VOCAB_FILE:
        if _reads_pieces(cfg):
            return WordPiece.load(inputs.VOCAB_FILE, inputs.DO_LOWER_CASE)
        return _vocabulary_of_file(inputs.VOCAB_FILE, inputs.TOKENIZER)
    found = list(texts())
    together = inputs.TOKENIZER != "characters" and runs_words_together(dict.fromkeys(found))
    if together:
        say(
            f"words: {source} runs words together, as in Chinese, Japanese or Thai: each letter of such "
            "scripts is a token, other words stay whole (put spaces between words to have words as tokens)"
        )
    if _reads_pieces(cfg):
        return WordPiece.build(found, inputs.VOCAB_THRESHOLD, inputs.DO_LOWER_CASE, together)
    tokenizer = "characters" if together else inputs.TOKENIZER
    return Vocabulary.build(found, tokenizer, inputs.VOCAB_THRESHOLD, inputs.VOCAB_LAYOUT, source)


def _reads_pieces(cfg: CfgNode) -> bool:
    return FAMILIES[cfg.MODEL.NAME].text == "pieces"


def _vocabulary_of_file(path: str, tokenizer: str) -> Vocabulary:
    vocabulary = Vocabulary.load(path, tokenizer)
    if vocabulary.tokenizer not in (tokenizer, "characters"):  # which training chooses by itself
        raise UserError(
            f"{path}: made with the tokenizer {vocabulary.tokenizer}, INPUT.TOKENIZER is {tokenizer}: "
            f"add INPUT.TOKENIZER={vocabulary.tokenizer}"
        )
    return vocabulary
