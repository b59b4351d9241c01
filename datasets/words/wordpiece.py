"""BERT's WordPiece: from text to the ids of a `vocab.txt`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece as WordPieceModel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from config.errors import UserError
from config.files.whole import replacing
from datasets.names import composed
from datasets.text_files import read_text
from datasets.words.letters import unspaced_letter
from datasets.words.packed_tokens import PackedTokens

MARKERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_ALL_MARKERS = {*MARKERS, "[MASK]"}
_LONGEST_WORD = 100  # characters; a longer one is unknown, as in the original
_ENCODED_TOGETHER = 10_000  # texts: bounds the memory of the tokenizer's own objects


class WordPiece:
    """The word pieces that a BERT knows, each with its id, and how text is split into them.

    `pieces` are all entries by id. `lower_case` removes case and accents first. Text is split at white space,
    punctuation and Chinese characters. Of each word, the longest piece that begins it is split off, then the
    longest piece that begins the rest, and so on; pieces inside a word are written `##piece` (BERT, arXiv
    1810.04805; the tokens equal those of pytorch-transformers' and PaddleNLP's BertTokenizer). Text that
    spells a marker, such as `[SEP]`, is text. Text is first brought into the form NFC.

    Raises `UserError` that names `source` if the pieces lack a marker or hold a piece twice.
    """

    file_name = "vocab.txt"

    def __init__(self, pieces: Sequence[str], lower_case: bool = True, source: str = "vocabulary") -> None:
        self.pieces = list(pieces)
        self.lower_case = lower_case
        self._ids = ids = _ids_of(self.pieces, source)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (ids[marker] for marker in MARKERS)
        self.mask_id = ids.get("[MASK]", self.unk_id)
        self.start_id, self.end_id = self.cls_id, self.sep_id
        model = WordPieceModel(ids, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = _normalizer(lower_case)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()

    @classmethod
    def load(cls, path: str | Path, lower_case: bool = True) -> "WordPiece":
        """Read a `vocab.txt` with one piece per line.

        Raises `UserError` for a file that is missing or no vocabulary.
        """
        path = Path(path)
        if path.is_dir():
            raise UserError(f"{path}: a folder, expected a vocabulary: name its vocab.txt")
        if not path.is_file():
            raise UserError(f"{path}: no such vocabulary, expected BERT's vocab.txt: check the name")
        lines = [line.rstrip("\r") for line in read_text(path).split("\n")]
        return cls(lines[:-1] if not lines[-1] else lines, lower_case, str(path))

    @classmethod
    def build(
        cls, texts: Iterable[str], threshold: int = 1, lower_case: bool = True, characters: bool = False
    ) -> "WordPiece":
        """Build a vocabulary of the whole words that occur at least `threshold` times, for a new BERT.

        The words follow the markers by frequency, then by first occurrence. With `characters`, the letters of
        scripts without spaces are the pieces of their words.
        """
        normalizer, splitter = _normalizer(lower_case), BertPreTokenizer()
        counts: Counter[str] = Counter()
        for text, times in Counter(texts).items():
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(composed(text))):
                for piece in _letters_of(word) if characters else [word]:
                    counts[piece] += times
        words = [word for word, count in counts.most_common() if count >= threshold and word not in MARKERS]
        return cls([*MARKERS, *words], lower_case)

    def __len__(self) -> int:
        return len(self.pieces)

    def to_text(self) -> str:
        """Return the vocabulary as BERT's `vocab.txt`, one piece per line."""
        return "".join(f"{piece}\n" for piece in self.pieces)

    def save(self, path: str | Path) -> None:
        """Write a `vocab.txt`; an older file stays intact if this fails.

        Raises `UserError` if the file cannot be written.
        """
        try:
            with replacing(Path(path)) as draft:
                draft.write_text(self.to_text(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot write the vocabulary: {error.strerror}") from error

    def tokens(self, text: str) -> list[str]:
        """Return the pieces of a text, without markers; a word without pieces is returned as written."""
        text = composed(text)
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [
            text[slice(*place)] if index == self.unk_id else piece
            for piece, index, place in zip(encoded.tokens, encoded.ids, encoded.offsets, strict=True)
        ]

    def knows(self, token: str) -> bool:
        """Return whether `token`, one of `tokens`, is a piece of the vocabulary."""
        return token in self._ids

    def are_words(self) -> np.ndarray:
        """Return which entries are words or parts of them, not markers or punctuation: bool [entries]."""
        known = [piece not in _ALL_MARKERS and any(map(str.isalnum, piece)) for piece in self.pieces]
        return np.array(known)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a caption, framed by `[CLS]` and `[SEP]`."""
        encoded = self._tokenizer.encode(composed(text), add_special_tokens=False)
        return [self.start_id, *encoded.ids, self.end_id]

    def encode_all(self, texts: Sequence[str]) -> PackedTokens:
        """Return the ids of many texts, without markers."""
        ids, lengths = [], []
        for start in range(0, len(texts), _ENCODED_TOGETHER):
            part = [composed(text) for text in texts[start : start + _ENCODED_TOGETHER]]
            encoded = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            rows = [encoding.ids for encoding in encoded]
            lengths += map(len, rows)
            ids.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
        return PackedTokens(np.concatenate(ids or [np.empty(0, np.int32)]), np.array(lengths, dtype=np.int64))


def _letters_of(word: str) -> set[str]:
    """Return the pieces of a word: letters of scripts without spaces, and what stands between them whole.

    Each comes as the beginning of a word and as `##piece`, and so does each character of a letter, so that a
    known letter with an unknown mark makes no more unknown than itself.
    """
    letter = unspaced_letter()
    if not letter.search(word):
        return {word}
    parts = {part for part in [*letter.findall(word), *letter.split(word)] if part}
    parts |= {character for part in letter.findall(word) for character in part}
    return {form for part in parts for form in (part, f"##{part}")}


def _normalizer(lower_case: bool) -> BertNormalizer:
    return BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lower_case, lowercase=lower_case
    )


def _ids_of(pieces: list[str], source: str) -> dict[str, int]:
    ids = {piece: index for index, piece in enumerate(pieces)}
    missing = [marker for marker in MARKERS if marker not in ids]
    if missing:
        raise UserError(
            f"{source}: no {', '.join(missing)} among {len(pieces)} lines, expected BERT's vocabulary with a "
            "piece a line: name the vocab.txt of the model"
        )
    for index, piece in enumerate(pieces):
        if not piece:
            raise UserError(f"{source} line {index + 1}: empty, expected a piece a line: copy the file again")
        if ids[piece] != index:
            raise UserError(
                f"{source} line {index + 1}: {piece!r} stands on line {ids[piece] + 1} too, expected each "
                "piece once: copy the file again"
            )
    return ids
