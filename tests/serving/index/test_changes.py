"""Items are added, updated and deleted; whoever has the index open finds what has been acknowledged."""

import shutil
import unicodedata

import numpy as np
import pytest

from config.errors import UserError
from serving.index import build
from serving.index import index as index_module
from serving.index.index import Index
from serving.index.items import Item
from tests.vector_makers import items_named, unit_vectors

ENGINES = ["scan", "int8", "float16", "lists"]


def ids(hits) -> list[str]:
    return [hit.id for hit in hits]


@pytest.mark.parametrize("scanned_rows", [4096, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_comes_later_is_found(make_index, engine, scanned_rows, monkeypatch):
    """Also where so much comes that it gets an engine of its own."""
    monkeypatch.setattr(index_module, "_SCANNED_ROWS", scanned_rows)
    vectors = unit_vectors(120)
    folder = make_index(vectors[:100], engine, items_named(100))
    with Index(folder, writable=True) as writer, Index(folder) as reader:
        for start in (100, 104, 112):
            stop = {100: 104, 104: 112, 112: 120}[start]
            writer.add(items_named(stop - start, start), vectors[start:stop])
            for row in range(start, stop):
                hit = reader.search(vectors[row : row + 1], 1)[0][0]
                assert hit.id == f"p{row}" and hit.caption == f"picture {row}"
                assert hit.metadata["number"] == row
        assert reader.card.count == 120 and reader.card.recall_at_10 is not None
    with Index(folder) as again:
        assert ids(again.search(vectors[119:], 1)[0]) == ["p119"] and again.card.count == 120


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_deleted_is_not_found_and_may_come_again(make_index, engine):
    vectors = unit_vectors(50)
    folder = make_index(vectors, engine)
    with Index(folder, writable=True) as writer, Index(folder) as reader:
        assert ids(reader.search(vectors[7:8], 1)[0]) == ["p7"]
        writer.delete(["p7", "p8"])
        assert not {"p7", "p8"} & set(ids(reader.search(vectors[7:8], 50)[0]))
        assert len(reader.search(vectors[:1], 50)[0]) == 48
        writer.add([Item("p7")], vectors[:1])
        assert ids(reader.search(vectors[:1], 2)[0]) == ["p0", "p7"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_replaces_vector_caption_and_metadata(make_index, engine):
    vectors, other = unit_vectors(50), unit_vectors(1, seed=9)
    with Index(make_index(vectors, engine), writable=True) as index:
        index.add([Item("p3", "anew", {"size": 4})], other, replace=True)
        assert index.search(other, 1)[0][0].caption == "anew"
        assert "p3" not in ids(index.search(vectors[3:4], 1)[0])
        assert index.card.count == 50 and ids(index.search(other, 5, "size = 4")[0]) == ["p3"]
        index.describe([Item("p3", "later", {"size": 5})])
        assert index.search(other, 1, "size = 5")[0][0].caption == "later"


@pytest.mark.parametrize(
    ("items", "vectors", "message"),
    [
        ([Item("p1")], unit_vectors(1), "there is an item 'p1' already: update it, or delete it first"),
        (
            [Item("p1"), Item("p2")],
            unit_vectors(2),
            "there are items 'p1', 'p2' already: update them, or delete them first",
        ),
        ([Item("a"), Item("a")], unit_vectors(2), "the id 'a' is there twice"),
        ([Item("a"), Item("b")], unit_vectors(1), "one vector an item, got 2 items and 1 vectors"),
        ([Item("a")], np.full((1, 24), np.nan), "row 1 holds NaN or infinity"),
        ([Item("a")], 3 * unit_vectors(1), "has the length 3, expected 1"),
        ([Item("a", None, {"x": float("nan")})], unit_vectors(1), "'a': the metadata are not JSON"),
        ([Item("a", None, ["x"])], unit_vectors(1), "'a': expected a JSON object as metadata"),
        ([Item("a", None, {"\ud800": "x"})], unit_vectors(1), r"'a': the metadata: \\ud800 is half a letter"),
        (
            [Item("a", None, {"x": ["\udfff"]})],
            unit_vectors(1),
            r"'a': the metadata: \\udfff is half a letter",
        ),
        ([Item("a", "x\ud800")], unit_vectors(1), r"'a': the id or the caption: \\ud800 is half a letter"),
        ([Item("")], unit_vectors(1), "expected a text as id, got ''"),
    ],
)
def test_what_cannot_be_added_changes_nothing(make_index, items, vectors, message):
    with Index(make_index(unit_vectors(5)), writable=True) as index:
        with pytest.raises(UserError, match=message):
            index.add(items, vectors)
        assert index.card.count == 5
        index.add([Item("fine")], unit_vectors(1, seed=8))
        assert ids(index.search(unit_vectors(1, seed=8), 1)[0]) == ["fine"]


def nested(lists: int) -> dict:
    """Return metadata of one object, with so many lists within each other in it."""
    inner: list = []
    for _ in range(lists - 1):
        inner = [inner]
    return {"x": inner}


def test_metadata_may_be_nested_a_hundred_deep(make_index):
    with Index(make_index(unit_vectors(5)), writable=True) as index:
        index.add([Item("deep", None, nested(99))], unit_vectors(1, seed=9))
        for lists in (100, 900, 100_000):
            items = [Item("deep", None, nested(lists))]
            for change in (
                lambda items=items: index.add(items, unit_vectors(1), replace=True),
                lambda items=items: index.describe(items),
            ):
                with pytest.raises(UserError, match="'deep': .* at most 100 deep"):
                    change()
        assert index.search(unit_vectors(1, seed=9), 1)[0][0].metadata == nested(99)


def test_deleting_names_what_is_not_there_and_deletes_nothing(make_index):
    with Index(make_index(unit_vectors(5)), writable=True) as index:
        with pytest.raises(UserError, match="there is no item 'x0', 'x1', 'x2', 'x3', 'x4' .7 in all"):
            index.delete(["p1", *(f"x{number}" for number in range(7))])
        assert index.card.count == 5


def test_one_process_writes(make_index):
    folder = make_index(unit_vectors(5))
    with Index(folder, writable=True):
        with pytest.raises(UserError, match="another process writes into this index"):
            Index(folder, writable=True)
        with pytest.raises(UserError, match="another process writes into this index"):
            build.compact(folder)
    with Index(folder, writable=True) as index:
        index.delete(["p0"])


@pytest.mark.parametrize("engine", ENGINES)
def test_compacting_forgets_what_was_deleted_and_a_reader_goes_on(make_index, engine):
    vectors = unit_vectors(60)
    folder = make_index(vectors[:50], engine, items_named(50))
    with Index(folder) as reader:
        with Index(folder, writable=True) as writer:
            writer.delete([f"p{row}" for row in range(0, 50, 2)])
            writer.add(items_named(10, 50), vectors[50:])
        before = reader.search(vectors[:5], 10)
        card = build.compact(folder)
        after = reader.search(vectors[:5], 10)
        assert [ids(hits) for hits in after] == [ids(hits) for hits in before] or engine == "lists"
        assert card.count == reader.card.count == 35 and card.engine == engine
    stored = folder / card.data / "vectors.f32"
    assert stored.stat().st_size == 35 * 24 * 4
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [card.data]
    with Index(folder) as index:
        index.verify()
        assert [item.id for item in index.items()][:3] == ["p1", "p3", "p5"]


def test_an_index_of_which_nothing_or_little_is_left(make_index):
    folder = make_index(unit_vectors(50), "lists")
    with Index(folder, writable=True) as index:
        index.delete([f"p{row}" for row in range(48)])
    assert build.compact(folder).engine == "scan"  # no lists can be made of two vectors
    with Index(folder, writable=True) as index:
        index.delete(["p48", "p49"])
        assert index.search(unit_vectors(1), 3) == [[]]
    with pytest.raises(UserError, match="it holds no items: add some, or delete the folder"):
        build.compact(folder)
    with Index(folder, writable=True) as index:
        index.add(items_named(1), unit_vectors(1))
        assert ids(index.search(unit_vectors(1), 3)[0]) == ["p0"]


def test_an_index_that_was_copied_while_it_was_open_holds_everything(make_index, tmp_path):
    vectors = unit_vectors(20)
    folder = make_index(vectors[:10], items=items_named(10))
    with Index(folder, writable=True) as writer:
        writer.add(items_named(10, 10), vectors[10:])
        shutil.copytree(folder, tmp_path / "copy")
    with Index(tmp_path / "copy") as copy:
        assert copy.card.count == 20 and ids(copy.search(vectors[15:16], 1)[0]) == ["p15"]


def test_a_folder_that_cannot_be_written_to_is_searched(make_index):
    vectors = unit_vectors(10)
    folder = make_index(vectors)
    data = next(path for path in folder.iterdir() if path.is_dir())
    data.chmod(0o500)
    try:
        with Index(folder) as index:
            assert ids(index.search(vectors[3:4], 1)[0]) == ["p3"]
    finally:
        data.chmod(0o700)


def test_an_id_may_be_given_in_another_form_of_unicode(make_index):
    names = [unicodedata.normalize("NFD", name) for name in ("café.jpg", "한강.jpg")]
    vectors = unit_vectors(3)
    with Index(make_index(vectors, items=[Item(name) for name in [*names, "plain"]]), writable=True) as index:
        np.testing.assert_array_equal(index.vectors_of(["café.jpg"])[0], vectors[0])
        index.delete(["한강.jpg", names[1]])
        assert [item.id for item in index.items()] == [names[0], "plain"]
