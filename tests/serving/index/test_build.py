"""An index is built from pictures, features or captions, and a build goes on where it stopped."""

import json
import threading
import unicodedata

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from serving.index import build
from serving.index.build import Job
from serving.index.engines import measured
from serving.index.finishing import Options
from serving.index.index import Index
from serving.index.query import Asker, Term
from serving.index.sources import open_source
from tests.vector_makers import WordEncoder, unit_vectors

COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown"]
THINGS = ["dog", "cat", "car", "house", "tree", "boat", "child", "horse", "road", "sea"]
PLACES = ["grass", "snow", "sand", "stone", "water", "wood"]


def sentences(count: int) -> list[str]:
    words = [f"a {c} {t} on {p}" for c in COLOURS for t in THINGS for p in PLACES]
    return [words[number] for number in np.random.default_rng(0).permutation(len(words))[:count]]


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(sentences(300)))
    return path


def ids(hits) -> list[str]:
    return [hit.id for hit in hits]


def test_captions_become_an_index(captions, tmp_path):
    encoder = WordEncoder()
    card = build.build(encoder, open_source(captions), tmp_path / "index")
    assert (card.holds, card.count, card.measure, card.bundle) == (
        "captions",
        300,
        "cosine",
        encoder.identity,
    )
    assert (
        card.recall_at_10 == 1.0 and card.recall_queries == "300 perturbed items" and card.build_seconds > 0
    )
    assert {"python", "numpy"} <= set(card.versions)
    with Index(tmp_path / "index") as index:
        hit = index.search(encoder.encode_texts([sentences(300)[41]]), 1)[0][0]
        assert (
            hit.id == "42" and hit.caption == sentences(300)[41] and hit.score == pytest.approx(1, abs=1e-6)
        )


def test_pictures_become_an_index(tmp_path):
    for name in ("red_dog", "green_tree", "sub/blue_sea"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "about.jsonl").write_text(
        '{"id": "red_dog", "caption": "my dog", "metadata": {"year": 2020}}\n'
        '{"id": "blue_sea", "caption": "sea"}'
    )
    encoder = WordEncoder()
    source = open_source(tmp_path / "photos", tmp_path / "about.jsonl")
    build.build(encoder, source, tmp_path / "index")
    with Index(tmp_path / "index") as index:
        assert ids(index.search(encoder.encode_texts(["blue sea"]), 1)[0]) == ["sub/blue_sea.png"]
        (hit,) = index.search(encoder.encode_texts(["tree"]), 5, "year = 2020")[0]
        assert hit.caption == "my dog"


def test_features_become_an_index_by_their_ids(tmp_path):
    features = np.random.default_rng(0).standard_normal((50, 3, 12)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", features)
    (tmp_path / "test_ids.txt").write_text("\n".join(f"image_{row}" for row in range(50)))
    encoder = WordEncoder()
    build.build(encoder, open_source(tmp_path / "test_ims.npy"), tmp_path / "index")
    with Index(tmp_path / "index") as index:
        query = encoder.encode_features(features[7:8], np.array([3]))
        assert ids(index.search(query, 1)[0]) == ["image_7"]


def test_a_build_goes_on_where_it_stopped(captions, tmp_path, monkeypatch):
    monkeypatch.setitem(build._BLOCKS, "captions", 32)
    broken = WordEncoder()
    encode = broken.encode_texts

    def stop_after_four_blocks(texts: list[str]) -> np.ndarray:
        if broken.encoded >= 128:
            raise KeyboardInterrupt
        return encode(texts)

    broken.encode_texts = stop_after_four_blocks
    out = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build.build(broken, open_source(captions), out)
    with pytest.raises(UserError, match="is not finished: run the same command again"):
        Index(out)
    encoder = WordEncoder()
    build.build(encoder, open_source(captions), out)
    assert encoder.encoded == 300 - 128
    build.build(WordEncoder(), open_source(captions), tmp_path / "whole")
    with Index(out) as one, Index(tmp_path / "whole") as other:
        queries = unit_vectors(20)
        assert one.search(queries, 9) == other.search(queries, 9)


def test_another_gallery_is_not_mixed_with_a_build_that_was_begun(captions, tmp_path):
    build._begin(tmp_path / "index" / "building", {"bundle": "another"})
    with pytest.raises(UserError, match="another gallery, or bundle, was begun here"):
        build.build(WordEncoder(), open_source(captions), tmp_path / "index")


def test_an_index_is_not_replaced_by_accident(captions, tmp_path):
    build.build(WordEncoder(), open_source(captions), tmp_path / "index")
    with pytest.raises(UserError, match="there is an index already: give another --out, or --overwrite"):
        build.build(WordEncoder(), open_source(captions), tmp_path / "index")


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_processes_share_the_encoding(captions, tmp_path, monkeypatch, patience):
    """With no patience, the first encodes what others would; the index is the same."""
    monkeypatch.setitem(build._BLOCKS, "captions", 16)
    monkeypatch.setattr(build, "_PATIENCE", patience)
    encoders = [WordEncoder() for _ in range(3)]
    source = open_source(captions)
    build._begin(tmp_path / "index" / "building", build._plan(encoders[0], source))
    helpers = [
        threading.Thread(
            target=build.build,
            args=(encoders[number], source, tmp_path / "index"),
            kwargs={"job": Job(number, 3)},
        )
        for number in (1, 2)
    ]
    for helper in helpers:
        helper.start()
    build.build(encoders[0], source, tmp_path / "index", job=Job(0, 3))
    for helper in helpers:
        helper.join()
    if patience:
        assert [encoder.encoded for encoder in encoders] == [108, 96, 96]
    build.build(WordEncoder(), source, tmp_path / "whole")
    with Index(tmp_path / "index") as one, Index(tmp_path / "whole") as other:
        assert list(one.items()) == list(other.items())
        queries = unit_vectors(10)
        assert one.search(queries, 9) == other.search(queries, 9)


def test_a_collection_changes_its_model_while_it_is_searched(captions, tmp_path):
    old, new, out = WordEncoder("old"), WordEncoder("new", 30), tmp_path / "index"
    build.build(old, open_source(captions), out)
    with Index(out, writable=True) as index:
        index.delete(["1"])
    with Index(out) as reader:
        assert ids(reader.search(old.encode_texts([sentences(300)[4]]), 1)[0]) == ["5"]
        card = build.rebuild(new, open_source(captions), out)
        assert (card.dimension, card.previous, card.count) == (30, "0001", 299)
        assert ids(reader.search(new.encode_texts([sentences(300)[4]]), 1)[0]) == ["5"]
        with pytest.raises(UserError, match="numbers of shape .N,30."):
            reader.search(old.encode_texts(["a dog"]), 1)
        with pytest.raises(UserError, match="built with the bundle"):
            reader.check_bundle(old.identity)
    assert (out / "0001" / "vectors.f32").exists()
    build.drop_previous(out)
    assert not (out / "0001").exists()
    with Index(out) as index:
        assert index.card.count == 299
    with pytest.raises(UserError, match="it keeps no older data"):
        build.drop_previous(out)


def test_a_new_model_needs_the_contents_of_all_items(captions, tmp_path):
    build.build(WordEncoder(), open_source(captions), tmp_path / "index")
    captions.write_text("\n".join(sentences(290)))
    with pytest.raises(UserError, match="its item '291', '292', '293', '294', '295' .10 in all. is not in"):
        build.rebuild(WordEncoder("new"), open_source(captions), tmp_path / "index")
    with Index(tmp_path / "index") as index:
        assert index.card.bundle == WordEncoder().identity


@pytest.fixture
def described(tmp_path):
    """Return an encoder, and the source of 400 pictures each of which a sentence describes."""
    words = sentences(400)
    encoder = WordEncoder()
    pictures = encoder.encode_texts(words) + 0.35 * unit_vectors(400, seed=4)
    turn = np.linalg.pinv(np.random.default_rng(7).standard_normal((24, 24)))
    np.save(tmp_path / "test_ims.npy", (pictures @ turn).astype(np.float32))
    (tmp_path / "test.tsv").write_text("".join(f"{row}#0\t{text}\n" for row, text in enumerate(words)))
    return encoder, open_source(tmp_path / "test_ims.npy", tmp_path / "test.tsv"), words


def test_captions_measure_recall_and_calibrate_when_nothing_fits(described, tmp_path):
    encoder, source, words = described
    card = build.build(encoder, source, tmp_path / "index", Options("float16"))
    assert card.recall_queries == "400 captions" and card.recall_at_10 == 1.0
    assert card.cutoff["queries"] == 400 and card.cutoff["false_accept_rate"] < 0.15
    with Index(tmp_path / "index") as index:
        asker = Asker(index)
        right = [
            [Term(text, vector)] for text, vector in zip(words, encoder.encode_texts(words), strict=True)
        ]
        absent = encoder.encode_texts(sentences(480)[400:])
        fits = np.mean([answer.fits for answer in asker.answers(right, 1)])
        wrong = np.mean([answer.fits for answer in asker.answers([[Term("", each)] for each in absent], 1)])
    assert fits == pytest.approx(1 - card.cutoff["turned_away_rate"], abs=0.1) and fits > 0.5
    assert wrong <= card.cutoff["false_accept_rate"] + 0.15


def test_sentences_about_other_pictures_decide_when_nothing_fits(described, tmp_path):
    """They need no captions of the gallery; with these, both errors are on the card, without, one is."""
    encoder, with_captions, words = described
    absent = sentences(480)[400:]
    (tmp_path / "dev_caps.txt").write_text("\n".join([*absent[:60], absent[0]]) + "\n")
    source = open_source(with_captions.path, None, tmp_path / "dev_caps.txt")
    card = build.build(encoder, source, tmp_path / "index", Options("float16"))
    assert card.recall_queries == "400 perturbed items" and card.source["dev_captions"].endswith(
        "dev_caps.txt"
    )
    assert card.cutoff["queries"] == 60 and card.cutoff["turned_away_rate"] is None
    assert card.cutoff["sentences"] == "captions of other pictures"
    with Index(tmp_path / "index") as index:
        asked = [[Term("", vector)] for vector in encoder.encode_texts(absent[60:])]
        wrong = np.mean([answer.fits for answer in Asker(index).answers(asked, 1)])
    assert wrong <= card.cutoff["false_accept_rate"] + 0.15
    both = open_source(with_captions.path, with_captions.captions, tmp_path / "dev_caps.txt")
    second = build.build(encoder, both, tmp_path / "both", Options("float16"))
    assert second.cutoff["deviations"] == card.cutoff["deviations"]
    with Index(tmp_path / "both") as index:
        right = [[Term("", vector)] for vector in encoder.encode_texts(words)]
        found = [answer.deviations for answer in Asker(index).answers(right, 1)]
    fits = np.mean(np.array(found) >= second.cutoff["deviations"])
    assert fits == pytest.approx(1 - second.cutoff["turned_away_rate"], abs=0.1) and 0.1 < fits < 1
    (tmp_path / "dev_caps.txt").write_text("\n".join(absent[:39]))
    few = open_source(with_captions.path, None, tmp_path / "dev_caps.txt")
    assert build.build(encoder, few, tmp_path / "few", Options("scan")).cutoff is None


def test_the_rates_of_a_cut_off_are_what_a_plain_count_finds():
    random = np.random.default_rng(0)
    general = random.normal(size=(200, 50))
    wrong, best = random.normal(3, 0.5, 200), random.normal(5, 1, 200)
    wrong_deviations, deviations = (measured.normalised(each, general) for each in (wrong, best))
    found = measured.calibrate_cutoff(wrong_deviations, deviations, 0.1)
    accepted = rejected = 0
    for query in range(1, 200, 2):
        mean, spread = general[query].mean(), general[query].std()
        accepted += (wrong[query] - mean) / spread >= found["deviations"]
        rejected += (best[query] - mean) / spread < found["deviations"]
    assert found["false_accept_rate"] == accepted / 100 and found["turned_away_rate"] == rejected / 100


def test_a_sum_of_terms_shows_the_share_of_each(described, tmp_path):
    encoder, source, _ = described
    build.build(encoder, source, tmp_path / "index")
    one, two, minus = encoder.encode_texts(["red dog", "sand", "grey cat"])
    terms = [Term("a", one, 2.0), Term("b", two, 0.5), Term("c", minus, -1.0)]
    with Index(tmp_path / "index") as index:
        (answer,) = Asker(index).answers([terms], 5)
        total = 2 * one + 0.5 * two - minus
        everything = index.vectors_of([str(row) for row in range(400)]) @ (total / np.linalg.norm(total))
        assert ids(answer.hits) == [str(row) for row in np.argsort(-everything)[:5]]
        for hit in answer.hits:
            assert sum(hit.shares) == pytest.approx(hit.score, abs=1e-5)
            vector = index.vectors_of([hit.id])[0]
            assert hit.shares[2] == pytest.approx(-(vector @ minus) / np.linalg.norm(total), abs=1e-5)
        item = index.vectors_of(["17"])[0]
        (answer,) = Asker(index).answers([[Term("17", item, item="17")]], 3)
        assert "17" not in ids(answer.hits) and len(answer.hits) == 3
        with pytest.raises(UserError, match="the terms cancel each other .a, b."):
            Asker(index).answers([[Term("a", one), Term("b", one, -1.0)]], 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "empty, expected a sentence a line"),
        ("a.jsonl", '{"id": "x"}', "a.jsonl line 1: no caption, and every line needs a caption"),
        ("a.jsonl", '{"id": "x", "caption": "y"}\n\n{"caption": "  "}', "a.jsonl line 3: no caption"),
        ("a.jsonl", '{"id": "x", "caption": "y", "colour": 3}', "a.jsonl line 1: expected an object of"),
        ("a.jsonl", '{"id": "x", "caption": "y"}\nx', "a.jsonl line 2: not JSON"),
        ("a.jsonl", '{"id": "x", "caption": "y"}\n' * 2, "the id 'x' is there twice"),
        (
            "a.jsonl",
            '{"caption": "y", "metadata": {"x": %s}}' % ("[" * 100 + "]" * 100),
            "line 1: .* 100 deep",
        ),
        (
            "a.jsonl",
            '{"image": "x", "caption": "y", "metadata": {}}',
            'expected an object of "id", .* or of "image"',
        ),
        ("a.zip", "", "expected a folder of pictures: unpack it"),
        ("a.bin", "", "expected a file of features that ends with .npy"),
    ],
)
def test_galleries_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / name)


def test_captions_come_from_a_table_with_a_header(tmp_path, described):
    _, source, words = described
    table = tmp_path / "captions_by_split.csv"
    table.write_text(
        "image,caption,split\n" + "".join(f'{n},"{text}",test\n' for n, text in enumerate(words))
    )
    read = open_source(tmp_path / "test_ims.npy", table)
    assert read.queries == source.queries and read.items == source.items
    table.write_text('Photo;Description\n3;"a dog; wet"\n')
    assert open_source(tmp_path / "test_ims.npy", table).queries == [("3", "a dog; wet")]


COCO = {
    "images": [{"id": 7, "file_name": "3"}, {"id": 8, "file_name": "4"}],
    "annotations": [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": "a cat"}],
}
KARPATHY = {
    "images": [
        {"filename": "3", "sentences": [{"raw": "a dog"}]},
        {"filename": "4", "sentences": [{"tokens": ["a", "cat"]}]},
    ]
}
RECORDS = [{"image": "3", "caption": "a dog"}, {"image": "4", "caption": "a cat"}]
LINES = "".join(json.dumps(each) + "\n" for each in RECORDS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", LINES),
        ("c.ndjson", LINES),
        ("c.json", LINES),
        ("c.jsonl", LINES.replace("{", '{"id": 1, ')),
        ("c.json", json.dumps(COCO)),
        ("c.json", json.dumps(COCO, indent=1)),
        ("c.json", json.dumps(KARPATHY)),
        ("c.json", json.dumps(RECORDS, indent=1)),
        ("c.json", json.dumps({"3": ["a dog"], "4": ["a cat"]})),
        ("c.tsv", "image\tcaption\n3\ta dog\n4\ta cat\n"),
        ("captions.txt", "image,caption\n3,a dog\n4,a cat\n"),
        ("c.txt", '"image_name"|"comment"\n3|a dog\n4|a cat\n'.replace('"', "")),
        ("results.token", "3#0\ta dog\n4#0\ta cat\n"),
        ("own.json", LINES.replace("image", "id")),
    ],
)
def test_captions_come_from_every_table_that_prepare_data_reads(tmp_path, described, name, content):
    (tmp_path / name).write_text(content)
    read = open_source(tmp_path / "test_ims.npy", tmp_path / name)
    assert read.queries == [("3", "a dog"), ("4", "a cat")]


def test_a_sentence_of_an_image_and_a_caption_is_no_header(tmp_path):
    (tmp_path / "c.txt").write_text("an image, and a caption\na dog\n")
    assert [item.caption for item in open_source(tmp_path / "c.txt").items] == [
        "an image, and a caption",
        "a dog",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\n" + "3,\n" * 7, "csv line 2: 3; line 3: 3; .*line 6: 3; ... .7 empty captions"),
        (
            "image,caption\n3,a dog\n997,a cat\n998,a cat\n998,a dog\n",
            "csv line 3: there is no item '997', nor '998' in .*test_ims.npy .3 such lines",
        ),
        ("3,a dog\n4,a cat\n", "csv line 1: no column holds captions .* expected one such as caption$"),
        ("image,caption\n3,a dog\n4,a,cat\n", "csv line 3: 3 columns, expected 2: 4,a,cat .1 rows of"),
        ("image,caption\n3,\n4,a cat\n", "csv line 2: 3 .1 empty captions"),
        ("image,caption\n", "empty, expected a caption a row"),
        ("image,caption\n3,a dog\n999,a cat\n", "csv line 3: there is no item '999' in .*test_ims.npy"),
    ],
)
def test_a_table_of_captions_that_cannot_be_read(tmp_path, described, content, message):
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "test_ims.npy", tmp_path / "test.csv")


def test_a_table_that_names_a_picture_that_is_not_there_is_told_with_its_line(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "c.csv").write_text("image,caption\na.png,a dog\nb.png,a cat\n")
    with pytest.raises(UserError, match="c.csv line 3: no picture for 'b.png' in "):
        open_source(tmp_path / "photos", tmp_path / "c.csv")
    (tmp_path / "c.yaml").write_text("- a dog\n- a cat\n")
    with pytest.raises(UserError, match='c.yaml: sentences that name no picture: expected lines of "id"'):
        open_source(tmp_path / "photos", tmp_path / "c.yaml")


def test_a_missing_file_of_captions_is_told_as_such(described):
    _, source, _ = described
    with pytest.raises(UserError, match="^--captions: nowhere.tsv: no such file"):
        open_source(source.path, "nowhere.tsv")


def test_sentences_of_items_that_are_not_there(tmp_path, described):
    (tmp_path / "test.tsv").write_text("3\tfine\n999#0\ta dog\n")
    with pytest.raises(
        UserError, match=r"test.tsv line 2: there is no item '999' in .*test_ims.npy .1 such lines"
    ):
        open_source(tmp_path / "test_ims.npy", tmp_path / "test.tsv")
    (tmp_path / "test.tsv").write_text("3\t \n")
    with pytest.raises(UserError, match="test.tsv line 1: expected an id, a tab and a sentence"):
        open_source(tmp_path / "test_ims.npy", tmp_path / "test.tsv")


def test_no_such_gallery(tmp_path):
    with pytest.raises(UserError, match="no such file or folder, expected pictures, features or captions"):
        open_source(tmp_path / "nowhere")


def test_the_card_is_plain_json(captions, tmp_path):
    build.build(WordEncoder(), open_source(captions), tmp_path / "index")
    card = json.loads((tmp_path / "index" / "card.json").read_text())
    assert card["source"] == {"kind": "captions", "path": str(captions)} and card["format"] == 1


def test_captions_name_items_in_another_form_of_unicode(tmp_path):
    names = ["café.jpg", "한강.jpg", "plain.jpg"]
    np.save(tmp_path / "f.npy", np.zeros((3, 4), np.float32))
    ids = "".join(unicodedata.normalize("NFD", name) + "\n" for name in names)
    (tmp_path / "f_ids.txt").write_text(ids, encoding="utf-8")
    lines = "".join(f"{name}\ta dog\u2028at {place}\n" for place, name in enumerate(names))
    (tmp_path / "captions.txt").write_text("\ufeff" + lines, encoding="utf-8")
    source = open_source(tmp_path / "f.npy", tmp_path / "captions.txt")
    assert [item.caption for item in source.items] == [f"a dog\u2028at {place}" for place in range(3)]
