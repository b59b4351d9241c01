"""BERT's tokenizer in plain Python, as its authors published it and the original Oscar uses it."""

import unicodedata
from pathlib import Path


class PlainWordPiece:
    """Lower-casing WordPiece over a `vocab.txt` (arXiv 1810.04805; google-research/bert, tokenization.py)."""

    def __init__(self, path: str | Path) -> None:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        self.ids = {piece: index for index, piece in enumerate(lines[:-1])}

    def encode(self, text: str) -> list[int]:
        return [self.ids[piece] for piece in self.tokenize(text)]

    def tokenize(self, text: str) -> list[str]:
        pieces = []
        for word in self._words(text):
            pieces += self._pieces(word)
        return pieces

    def _words(self, text: str) -> list[str]:
        words = []
        for word in _spaced_chinese(_clean(text)).split():
            word = unicodedata.normalize("NFD", word.lower())
            words += _split_punctuation([char for char in word if unicodedata.category(char) != "Mn"])
        return " ".join(words).split()

    def _pieces(self, word: str) -> list[str]:
        if len(word) > 100:
            return ["[UNK]"]
        pieces, start = [], 0
        while start < len(word):
            end = len(word)
            while start < end:
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.ids:
                    break
                end -= 1
            else:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces


def _clean(text: str) -> str:
    output = []
    for char in text:
        if char in "\t\n\r " or unicodedata.category(char) == "Zs":
            output.append(" ")
        elif char not in "\0\ufffd" and not unicodedata.category(char).startswith("C"):
            output.append(char)
    return "".join(output)


def _spaced_chinese(text: str) -> str:
    output = []
    for char in text:
        output.append(f" {char} " if _is_chinese(ord(char)) else char)
    return "".join(output)


def _split_punctuation(chars: list[str]) -> list[str]:
    words, start_new = [], True
    for char in chars:
        if _is_punctuation(char):
            words.append([char])
            start_new = True
        else:
            if start_new:
                words.append([])
            start_new = False
            words[-1].append(char)
    return ["".join(word) for word in words]


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P")


def _is_chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
