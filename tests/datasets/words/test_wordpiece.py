"""Text becomes the pieces of BERT's vocabulary, and a file that is no vocabulary is refused."""

import unicodedata

import numpy as np
import pytest

from benchmarks._plain_wordpiece import PlainWordPiece
from config.errors import UserError
from datasets.words.wordpiece import MARKERS, WordPiece
from tests.region_files import check_refused

PIECES = [*MARKERS, "[MASK]", "dog", "##s", "run", "##ning", "cafe", ",", "!", "[", "]", "sep", "狗", "a"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Dogs running,\tdog!", "dog ##s run ##ning , dog !"),
        ("a CAFÉ", "a cafe"),
        ("a狗dog", "a 狗 dog"),
        ("zebra dogx", "[UNK] [UNK]"),
        ("[SEP] a", "[ sep ] a"),
        ("dog" + "s" * 97, "dog" + " ##s" * 97),
        ("dog" + "s" * 98, "[UNK]"),  # over a hundred characters
        ("a\0\u200b\ufffddog", "[UNK]"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_pieces(vocabulary, text, pieces):
    word_piece = WordPiece.load(vocabulary)
    assert [word_piece.pieces[index] for index in word_piece.encode(text)[1:-1]] == pieces.split()
    assert PlainWordPiece(vocabulary).tokenize(text) == pieces.split()  # the published algorithm


def test_case_is_kept_where_asked(vocabulary):
    cased = WordPiece.load(vocabulary, lower_case=False)
    assert cased.encode("dog Dog CAFÉ cafe")[1:-1] == [
        PIECES.index(piece) for piece in ("dog", "[UNK]", "[UNK]", "cafe")
    ]


def test_many_texts_are_packed_one_after_another(vocabulary):
    word_piece = WordPiece.load(vocabulary)
    texts = ["dogs", "", "a running dog", "zebra"] * 5001  # more than are encoded together
    packed = word_piece.encode_all(texts)
    assert len(packed) == len(texts) and packed.ids.dtype == np.int32
    for row in (0, 1, 2, 3, 9998, 10_001, 20_002, len(texts) - 1):
        assert packed[row].tolist() == word_piece.encode(texts[row])[1:-1]
    assert len(word_piece.encode_all([])) == 0


def test_rows_are_cut_and_joined(vocabulary):
    packed = WordPiece.load(vocabulary).encode_all(["dogs a", "", "running dogs", "a"])
    cut = packed.cut(2)
    assert [cut[row].tolist() for row in range(4)] == [packed[row][:2].tolist() for row in range(4)]
    joined = packed.joined(np.array([3, 0, 1, 2, 2]), np.array([2, 0, 1, 2]))
    expected = [[3, 0], [], [1], [2, 2]]
    for row, parts in enumerate(expected):
        assert joined[row].tolist() == [index for part in parts for index in packed[part]]


def test_windows_line_ends_and_a_missing_last_one(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(PIECES).encode())
    assert WordPiece.load(path).pieces == PIECES


def test_a_vocabulary_of_whole_words_for_a_model_from_scratch(tmp_path):
    built = WordPiece.build(["a Red circle.", "a red square", "a blue [UNK] circle"], threshold=2)
    assert built.pieces == [*MARKERS, "a", "red", "circle"]
    built.save(tmp_path / "vocab.txt")
    again = WordPiece.load(tmp_path / "vocab.txt")
    assert again.pieces == built.pieces
    assert again.encode("a red star")[1:-1] == [4, 5, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]


def test_a_vocabulary_that_cannot_be_written(tmp_path):
    word_piece = WordPiece(PIECES)
    check_refused(lambda: word_piece.save(tmp_path / "none/vocab.txt"), ["vocab.txt: cannot write"])


@pytest.mark.parametrize(
    ("content", "expected"),
    {
        "no [CLS]": ("[PAD]\n[UNK]\n[SEP]\ndog\n", ["vocab.txt: no [CLS] among 4 lines"]),
        "empty": ("", ["vocab.txt: no [PAD], [UNK], [CLS], [SEP]"]),
        "another file": ('{"tokenizer": "nltk"}\n', ["vocab.txt: no [PAD]"]),
        "twice": ("\n".join([*MARKERS, "dog", "a", "dog"]), ["vocab.txt line 5: 'dog'", "on line 7 too"]),
        "a gap": ("\n".join([*MARKERS, "", "dog"]), ["vocab.txt line 5: empty"]),
        "no UTF-8": (b"[PAD]\n\xff\n", ["vocab.txt line 2: byte 0xff"]),
    }.values(),
)
def test_what_is_no_vocabulary_is_refused_in_one_line(tmp_path, content, expected):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(lambda: WordPiece.load(path), expected)


def test_a_missing_vocabulary(tmp_path):
    check_refused(lambda: WordPiece.load(tmp_path / "vocab.txt"), ["vocab.txt: no such vocabulary"])
    with pytest.raises(UserError, match="a folder"):
        WordPiece.load(tmp_path)


def test_a_word_without_pieces_is_told_as_it_is_written():
    words = WordPiece([*MARKERS, "a", "red", "dog", "##s"])
    assert words.tokens("A red Zebra, dogs") == ["a", "red", "Zebra", ",", "dog", "##s"]
    assert [words.knows(token) for token in words.tokens("A red Zebra dogs")] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert words.encode("red Zebra")[1:-1] == [words.pieces.index("red"), words.unk_id]


@pytest.mark.parametrize("lower_case", [True, False])
def test_both_forms_of_a_text_have_the_same_pieces(lower_case):
    texts = ["người đàn ông", "Café", "한강", "हिन्दी", "がく"]
    built = WordPiece.build(texts, lower_case=lower_case)
    for text in texts:
        decomposed = unicodedata.normalize("NFD", text)
        assert built.encode(decomposed) == built.encode(text)
        assert built.tokens(decomposed) == built.tokens(text)
        assert (built.encode_all([decomposed]).ids == built.encode(text)[1:-1]).all()
        assert built.unk_id not in built.encode(text)


@pytest.mark.parametrize("lower_case", [True, False])
def test_letters_of_scripts_without_spaces_become_pieces(lower_case):
    texts = ["ผู้ชายขี่ม้าในทุ่งหญ้าtv", "黒い犬がスケボーに乗る", "A Husky"]
    built = WordPiece.build(texts, lower_case=lower_case, characters=True)
    for text in ["ม้าในtv", "スケボーの犬"[:4] + "犬", "husky" if lower_case else "Husky"]:
        assert built.unk_id not in built.encode(text), text
    if not lower_case:
        assert built.tokens("ม้าขี่") == ["ม้", "##า", "##ขี่"]
    assert built.knows("husky" if lower_case else "Husky")
