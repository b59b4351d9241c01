"""Vocabularies: from a caption's tokens to the ids that a text encoder reads."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import is_pickle, refusal
from config.files.whole import replacing
from datasets.names import composed
from datasets.words.tokens import TOKENIZERS, tokenize

# Each layout's markers, at the head of its vocabulary (their ids are their positions).
MARKERS = {"vsepp": ("<pad>", "<start>", "<end>", "<unk>"), "vse": ("<end>", "<unk>")}
_ALL_MARKERS = {marker for layout in MARKERS.values() for marker in layout}


class Vocabulary:
    """The words that a model knows, each with its id, and how a caption is tokenized and framed.

    `words` are all entries by id, markers included. A caption is encoded as the ids of its words (`<unk>` for
    unknown ones) between `<start>` and `<end>`, if the vocabulary has these.
    """

    file_name = "vocab.json"

    def __init__(self, words: list[str], tokenizer: str, layout: str, threshold: int) -> None:
        self.words = words
        self.tokenizer = tokenizer
        self.layout = layout
        self.threshold = threshold
        self._ids = {word: index for index, word in enumerate(words)}
        for index, word in enumerate(words):  # a file may hold words in another form
            self._ids.setdefault(composed(word), index)
        self.unk_id = self._ids["<unk>"]
        self.start_id = self._ids.get("<start>")
        self.end_id = self._ids.get("<end>")
        self.pad_id = self._ids.get("<pad>", 0)

    @classmethod
    def build(
        cls, captions: Iterable[str], tokenizer: str, threshold: int, layout: str, source: str = "captions"
    ) -> "Vocabulary":
        """Build a vocabulary of the words that occur at least `threshold` times.

        The layout vsepp orders words by first occurrence; vse orders them by frequency, then by first
        occurrence (in the original, the order of equally frequent words depends on the machine). `source`
        names the captions in errors.
        Raises `UserError` if no word is left.
        """
        counts: Counter[str] = Counter()
        for caption, times in Counter(captions).items():  # data sets repeat many captions
            for token in tokenize(caption, tokenizer):
                counts[token] += times
        words = [word for word, count in counts.items() if count >= threshold and word not in MARKERS[layout]]
        if not _has_words(words):
            word, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
            remedy = "lower INPUT.VOCAB_THRESHOLD" if _has_words(counts) else "check the captions"
            raise UserError(
                f"{source}: a vocabulary without words: none occurs {threshold} times "
                f"(the most frequent token, {word!r}, {count} times): {remedy}"
            )
        if layout == "vse":
            words.sort(key=lambda word: -counts[word])
        return cls([*MARKERS[layout], *words], tokenizer, layout, threshold)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def digest(self) -> str:
        """Return twelve hexadecimal digits of a checksum that tells two vocabularies apart."""
        content = json.dumps([self.tokenizer, self.layout, self.words])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def tokens(self, text: str) -> list[str]:
        """Return the words of a caption, known or not."""
        return tokenize(text, self.tokenizer)

    def knows(self, token: str) -> bool:
        """Return whether `token` has an id of its own."""
        return token in self._ids

    def are_words(self) -> np.ndarray:
        """Return which entries are words, neither markers nor punctuation: bool [entries]."""
        return np.array([_has_words([word]) for word in self.words])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a caption, framed by the layout's markers."""
        unk, get = self.unk_id, self._ids.get
        ids = [get(token, unk) for token in self.tokens(text)]
        if self.start_id is not None:
            ids.insert(0, self.start_id)
        if self.end_id is not None:
            ids.append(self.end_id)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words up to `<end>`, joined by spaces, without padding and `<start>`."""
        words = []
        for index in ids:
            if index == self.end_id:
                break
            if index not in (self.pad_id, self.start_id):
                words.append(self.words[index])
        return " ".join(words)

    def to_text(self) -> str:
        """Return the vocabulary as JSON, one word per line."""
        content = {
            "tokenizer": self.tokenizer,
            "layout": self.layout,
            "threshold": self.threshold,
            "words": self.words,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `to_text` into a file; an older file stays intact if this fails.

        Raises `UserError` if the file cannot be written.
        """
        try:
            with replacing(Path(path)) as draft:
                draft.write_text(self.to_text(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot write the vocabulary: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path, tokenizer: str = "nltk") -> "Vocabulary":
        """Read a vocabulary that `save` wrote, or one of the originals (`word2idx`, `idx2word`, `idx`).

        `tokenizer` is that of an original's file, which does not name it. Raises `UserError` for a file that
        is missing, of another kind, or without words.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"{path}: no such vocabulary: check INPUT.VOCAB_FILE") from error
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            if path.suffix in (".pkl", ".pickle") or is_pickle(path.read_bytes()):
                target = path.with_suffix(".words.json" if path.suffix == ".json" else ".json")
                remedy = f"convert it with python tools/convert_weights.py {path} {target}"
                raise UserError(f"{path}: a pickle, expected JSON: {remedy}") from error
            raise UserError(refusal(path, f"not a vocabulary in JSON: {cut(error, 80)}")) from error
        try:
            if "word2idx" in content:
                words = _words_by_id(content["word2idx"], path)
                layout, threshold = ("vsepp" if "<start>" in words else "vse"), 1
            else:
                words, tokenizer = content["words"], content["tokenizer"]
                layout, threshold = content["layout"], content["threshold"]
            _check_texts(words, path)
            known = tokenizer in TOKENIZERS and layout in MARKERS and len(set(words)) == len(words)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{path}: not a vocabulary: expected tokenizer, layout, threshold and words, or word2idx"
            ) from error
        if not known or "<unk>" not in words or not _has_words(words):
            raise UserError(
                f"{path}: a vocabulary without words, without <unk>, with a word twice, or of an unknown "
                f"tokenizer or layout ({cut(tokenizer)!r}, {cut(layout)!r}): leave INPUT.VOCAB_FILE empty to "
                "build one"
            )
        return cls(words, tokenizer, layout, threshold)


def _check_texts(words: object, path: Path) -> None:
    """Raise `UserError` that names the first of `words` that is no text, such as a number without quotes."""
    if not isinstance(words, list):
        raise TypeError("words that are no list")
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise UserError(
                f"{path}: word {number} is {cut(json.dumps(word))}, expected a text: put it in quotes, or "
                "build the vocabulary again"
            )


def _has_words(words: Iterable[str]) -> bool:
    """Return whether any word is neither a marker nor punctuation."""
    return any(word not in _ALL_MARKERS and any(map(str.isalnum, word)) for word in words)


def _words_by_id(ids: dict[str, int], path: Path) -> list[str]:
    """Return the words by id; id 0, which one released vocabulary leaves free, becomes `<pad>`.

    Raises `UserError` that names a word without an id of its own, or an id without a word.
    """
    by_id: dict[int, str] = {}
    for word, index in ids.items():
        if type(index) is not int or index < 0:
            problem = f"the id of {cut(word)!r} is {cut(json.dumps(index))}, expected a whole number"
            raise UserError(f"{path}: {problem}: build the vocabulary again")
        if by_id.setdefault(index, word) != word:
            both = f"{cut(by_id[index])!r} and {cut(word)!r}"
            raise UserError(f"{path}: {both} have the id {index}, expected one each: build it again")
    by_id.setdefault(0, "<pad>")
    gap = next((index for index in range(len(by_id)) if index not in by_id), None)
    if gap is not None:
        raise UserError(
            f"{path}: no word has the id {gap}, and {cut(by_id[max(by_id)])!r} has {cut(max(by_id))}: "
            "expected ids from 0 on: build the vocabulary again"
        )
    return [by_id[index] for index in range(len(by_id))]
