"""Reads the vocabularies of the originals: pickled objects and dictionaries, and JSON."""

import io
import json
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError, cut, some
from config.files.kinds import refusal
from config.files.whole import write_whole
from datasets.words.vocabulary import Vocabulary
from engine.weights.plain_pickle import FAILURES, PlainUnpickler, reason_of, with_arrays

# What str(bytes) of Python 3 makes of a caption: b'a dog', and \xc3\xa9 for a letter beyond ASCII.
DAMAGED = re.compile(r"^b['\"]|\\x[0-9a-f]{2}")
_FREE = re.compile(r"<free \d+>")  # stands for a word that a dictionary lacks
_MOST_WORDS = 10_000_000
_OPTIONS = {"dim_image", "dim", "dim_word", "n_words"}  # of Kiros' VSE, in *_params_lstm.pkl


@dataclass(frozen=True)
class WordList:
    """The ids of words as a file has them, and what there is to say about them."""

    ids: dict[str, int]
    notes: list[str] = field(default_factory=list)


class _VocabularyUnpickler(PlainUnpickler):
    """An unpickler that takes an object of any class called Vocabulary as the dict of its attributes."""

    def find_class(self, module: str, name: str) -> object:
        return (
            super().find_class("argparse", "Namespace")
            if name == "Vocabulary"
            else super().find_class(module, name)
        )


def is_vocabulary(content: object) -> bool:
    """Tell whether unpickled or parsed `content` is a vocabulary or a dictionary of words."""
    if not isinstance(content, dict) or not content:
        return False
    if "word2idx" in content or "worddict" in content or is_ours(content):
        return True
    return all(isinstance(key, str | bytes) and type(value) is int for key, value in content.items())


def unpickle_words(path: Path) -> object:
    """Return the plain content of a pickle of protocol 0 to 5; raise UserError for anything else."""
    try:
        return with_arrays(_VocabularyUnpickler(io.BytesIO(path.read_bytes()), {}).load())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FAILURES as error:
        otherwise = f"not a pickle of plain containers: {reason_of(error)}"
        raise UserError(refusal(path, otherwise)) from error


def read_content(path: Path) -> object:
    """Return what a file of JSON, or a plain pickle, holds; raise UserError that says what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}), expected a vocabulary: check --vocabulary"
        ) from error
    if content.startswith(b"PK"):
        raise UserError(f"{path}: a checkpoint or another zip, expected a vocabulary: check --vocabulary")
    if content[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
        return unpickle_words(path)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a vocabulary in JSON: {cut(error, 80)}") from error


def refuse_options(content: object, path: Path) -> None:
    """Raise UserError for options of Kiros' VSE, whose names and sizes look like words and ids."""
    if isinstance(content, dict) and content.keys() >= _OPTIONS:
        raise UserError(
            f"{path}: the options of Kiros' VSE ({some(content)}), no vocabulary: convert the weights beside "
            "them (*_model_lstm.pkl) with --vocabulary, their dictionary; the options are read then"
        )


def words_of(content: object, path: Path) -> WordList:
    """Return the words of a vocabulary of VSE++, SCAN or VSRN, or of a dictionary of Kiros.

    Raises UserError for entries that are no words with ids, and for two words of one id.
    """
    refuse_options(content, path)
    if not is_vocabulary(content):
        raise UserError(f"{path}: not a vocabulary: expected word2idx, worddict, or a dict from words to ids")
    entries = content.get("word2idx", content.get("worddict", content))
    if not isinstance(entries, dict):
        raise UserError(f"{path}: its words are no dict from words to ids")
    ids: dict[str, int] = {}
    for word, number in entries.items():
        text = word.decode("utf-8", "replace") if isinstance(word, bytes) else word
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < _MOST_WORDS:
            raise UserError(f"{path}: expected words with ids, got {cut(word)!r} with {cut(number)!r}")
        ids[text] = number
    owner: dict[int, str] = {}
    for word, number in ids.items():
        if owner.setdefault(number, word) != word:
            raise UserError(f"{path}: {owner[number]!r} and {word!r} have the same id, {number}")
    return WordList(ids, _damage(ids, path))


def _damage(ids: dict[str, int], path: Path) -> list[str]:
    damaged = [word for word in ids if DAMAGED.search(word)]
    if not damaged:
        return []
    shown = ", ".join(damaged[:5])
    return [
        f"{path}: {len(damaged):,} of {len(ids):,} words ({len(damaged) / len(ids):.1%}) are damaged, such "
        f"as {shown}: Python 3 wrote bytes as text when it was built, so these words match no caption"
    ]


def is_ours(content: object) -> bool:
    """Tell whether parsed `content` is a vocabulary of this toolkit, such as a run's best/vocab.json."""
    return isinstance(content, dict) and {"words", "tokenizer"} <= content.keys()


def own_vocabulary(path: Path, rows: int) -> Vocabulary:
    """Return this toolkit's vocabulary in a file, whose model has so many `rows` of word vectors.

    Raises UserError if it is of another model.
    """
    vocabulary = Vocabulary.load(path)
    if len(vocabulary) != rows:
        raise _of_another_model(path, len(vocabulary), rows)
    return vocabulary


def original_text(vocabulary: Vocabulary, of_kiros: bool) -> str:
    """Return a vocabulary in the JSON of VSE++, SCAN and VSRN, or as a dictionary of Kiros."""
    words = vocabulary.words
    if of_kiros:
        ids = {word: number for number, word in enumerate(words) if number > 1 and not _FREE.fullmatch(word)}
        return json.dumps(ids, ensure_ascii=False, indent=0) + "\n"
    content = {
        "word2idx": {word: number for number, word in enumerate(words)},
        "idx2word": {str(number): word for number, word in enumerate(words)},
        "idx": len(words),
    }
    return json.dumps(content, ensure_ascii=False, indent=0) + "\n"


def free_rows(vocabulary: Vocabulary, path: Path) -> list[str]:
    """Return a note on the word vectors for which `dictionary_of` found no word in the file."""
    free = sum(_FREE.fullmatch(word) is not None for word in vocabulary.words)
    if not free:
        return []
    rows = len(vocabulary)
    return [
        f"{path}: {rows - free - 2:,} words for {rows:,} word vectors: {free:,} have no word, so no "
        "caption uses them: give the whole dictionary that the model was trained with (--vocabulary)"
    ]


def _of_another_model(path: Path, words: int, rows: int) -> UserError:
    return UserError(
        f"{path}: {words:,} words, but the model has {rows:,} word vectors: give the vocabulary that it was "
        "trained with (--vocabulary)"
    )


def vocabulary_of(words: WordList, path: Path, rows: int | None = None) -> Vocabulary:
    """Return a vocabulary of VSE++, SCAN or VSRN, whose model has so many `rows` of word vectors.

    Raises UserError if it is of another model, or lacks a marker.
    """
    by_id = {number: word for word, number in words.ids.items()}
    by_id.setdefault(0, "<pad>")  # one released vocabulary leaves the id free
    if rows is not None and len(by_id) != rows:
        raise _of_another_model(path, len(by_id), rows)
    return _checked(by_id, "vsepp" if "<start>" in words.ids else "vse", "nltk", path)


def dictionary_of(words: WordList, path: Path, rows: int | None = None) -> Vocabulary:
    """Return a dictionary of Kiros, whose ids begin at 2, behind the end of a sentence and the unknown word.

    Of a model with `rows` word vectors, words of higher ids are unknown, and ids beyond the words are free.
    Raises UserError where most of the ids up to the highest one have no word.
    """
    clash = next((word for word, number in words.ids.items() if number < 2), None)
    if clash is not None and words.ids.get("<eos>", words.ids.get("<end>")) != 0:
        raise UserError(
            f"{path}: {clash!r} has id {words.ids[clash]}, expected a dictionary of Kiros, whose ids begin "
            "at 2"
        )
    by_id = {number: word for word, number in words.ids.items() if number > 1}
    if len(by_id) < (max(by_id, default=1) - 1) / 2:
        raise UserError(
            f"{path}: {len(by_id)} words with ids up to {max(by_id)}, such as {some(by_id.values(), 3)}: "
            "expected a dictionary of Kiros, whose ids leave hardly a gap"
        )
    count = rows or max(by_id, default=1) + 1
    by_id = {number: word for number, word in by_id.items() if number < count} | {0: "<end>", 1: "<unk>"}
    for number in range(count):
        by_id.setdefault(number, f"<free {number}>")
    return _checked(by_id, "vse", "whitespace", path)


def convert_vocabulary(source: Path, content: object, output: Path) -> str:
    """Write the vocabulary that `source` holds as JSON for INPUT.VOCAB_FILE; return lines about it.

    Raises UserError for a vocabulary that does not hold together.
    """
    if is_ours(content):
        vocabulary, notes = Vocabulary.load(source), []
    else:
        words = words_of(content, source)
        is_dictionary = "<unk>" not in words.ids and "<pad>" not in words.ids
        vocabulary = (dictionary_of if is_dictionary else vocabulary_of)(words, source)
        notes = words.notes
    write_whole(output, vocabulary.to_text())
    line = (
        f"{output}: {len(vocabulary):,} words, layout {vocabulary.layout}, tokenizer {vocabulary.tokenizer}"
    )
    return "\n".join([*(f"note: {note}" for note in notes), line])


def _checked(by_id: dict[int, str], layout: str, tokenizer: str, path: Path) -> Vocabulary:
    if sorted(by_id) != list(range(len(by_id))):
        gap = next(number for number in range(len(by_id)) if number not in by_id)
        raise UserError(f"{path}: no word has id {gap}, but one has {max(by_id)}: ids must leave no gap")
    listed = [by_id[number] for number in range(len(by_id))]
    twice = len(set(listed)) < len(listed)
    if "<unk>" not in listed or twice:
        problem = "a word twice" if twice else "no <unk> among its words"
        raise UserError(f"{path}: {problem}: not a vocabulary of VSE++, SCAN, VSRN or VSE")
    return Vocabulary(listed, tokenizer, layout, 1)


def is_pickle(head: bytes) -> bool:
    """Tell whether a file's first bytes are those of a pickle of protocol 2 or later, or likely older."""
    return head[:1] == pickle.PROTO or head[:2] in (b"(d", b"(i", b"cc", b"c_", b"cv", b"}q")
