"""A damaged index says so in one line, names the file, and stays as it is."""

import errno
import json
import os
import resource
import signal
from random import Random

import numpy as np
import pytest

from config.errors import UserError
from serving.index import build
from serving.index.index import Index, cannot_write, writer_lock
from serving.index.vectors import row_checks
from tests.vector_makers import items_named, unit_vectors

FILES = {
    "scan": ["vectors.f32", "checks.u32", "items.sqlite"],
    "int8": ["codes.i8", "vectors.f32"],
    "float16": ["codes.f16", "vectors.f32"],
    "lists": ["lists.faiss"],
}
CASES = [(engine, name) for engine, names in FILES.items() for name in names]


def look(folder) -> None:
    with Index(folder) as index:
        index.verify()
        index.search(unit_vectors(3), 10)


def data_of(folder):
    return folder / json.loads((folder / "card.json").read_text())["data"]


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_file_that_was_cut(make_index, engine, name):
    path = data_of(folder := make_index(unit_vectors(200), engine)) / name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=rf"{name}: damaged \(") as caught:
        look(folder)
    assert "\n" not in str(caught.value)


def test_a_database_that_lacks_its_end_is_no_other_version(make_index):
    path = data_of(folder := make_index(unit_vectors(20))) / "items.sqlite"
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UserError, match=r"items.sqlite: damaged \(it is cut short\)"):
        look(folder)


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_file_that_is_missing(make_index, engine, name):
    (data_of(folder := make_index(unit_vectors(200), engine)) / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: damaged \("):
        look(folder)


@pytest.mark.parametrize(("engine", "name"), [case for case in CASES if case[1] != "items.sqlite"])
def test_every_bit_that_flips_is_noticed(make_index, engine, name):
    path = data_of(folder := make_index(unit_vectors(50), engine)) / name
    whole, random = path.read_bytes(), Random(0)
    for _ in range(25):
        content = bytearray(whole)
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            look(folder)
    path.write_bytes(whole)
    look(folder)


def test_a_search_alone_notices_a_bit_of_a_vector_that_it_returns(make_index):
    vectors = unit_vectors(50)
    path = data_of(folder := make_index(vectors, "float16")) / "vectors.f32"
    content = bytearray(path.read_bytes())
    content[7 * 24 * 4 + 1] ^= 4
    path.write_bytes(content)
    with Index(folder) as index, pytest.raises(UserError, match="vector 8 is not what was written"):
        index.search(vectors[7:8], 1)


def test_text_that_has_changed_in_the_database_is_noticed(make_index):
    path = data_of(folder := make_index(unit_vectors(50))) / "items.sqlite"
    content = path.read_bytes()
    assert content.count(b"picture 33") == 1
    path.write_bytes(content.replace(b"picture 33", b"picture 34"))
    with pytest.raises(UserError, match="items.sqlite: damaged .the item of row 34 is not what was written"):
        look(folder)


def test_the_check_of_a_row_changes_with_each_of_its_bits():
    rows = unit_vectors(1, 6)
    for bit in range(6 * 32):
        changed = bytearray(rows.tobytes())
        changed[bit // 8] ^= 1 << bit % 8
        assert row_checks(memoryview(changed).cast("f", (1, 6))) != row_checks(rows)
    assert row_checks(0 * rows) != 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card | {"format": 9}, "format 9, and this version reads 1: build the index again"),
        (lambda card: {**card, "count": "many"}, "a field has a value that cannot be"),
        (lambda card: {**card, "data": "../../elsewhere"}, "a field has a value that cannot be"),
        (lambda card: {**card, "data": "x" * 300}, "a field has a value that cannot be"),
        (lambda card: {key: card[key] for key in card if key != "bundle"}, r"missing \['bundle'\]"),
        (lambda card: [card], "expected the card of an index"),
    ],
)
def test_a_card_that_cannot_be_used(make_index, change, message):
    path = make_index(unit_vectors(20)) / "card.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        Index(path.parent)


def test_no_card(tmp_path):
    with pytest.raises(
        UserError, match=r"no card.json: expected the folder of an index, as tools/build_index"
    ):
        Index(tmp_path)
    (tmp_path / "building").mkdir()
    with pytest.raises(UserError, match="is not finished: run the same command again"):
        Index(tmp_path)


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond some bytes, as on a disk that is full."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_only_a_full_disk_asks_for_space(tmp_path):
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert str(cannot_write(tmp_path, OSError(number, "full"))).endswith("intact: free some space")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "index"):
        with pytest.raises(UserError, match="intact: name a folder that can be written"), writer_lock(path):
            pass


def test_codes_whose_check_survives_the_damage_are_refused_where_they_hold_no_number(make_index):
    folder = make_index(unit_vectors(300), "int8")
    path = folder / "0001" / "codes.i8"
    words = np.frombuffer(path.read_bytes(), np.uint32).copy()
    first = 300 * 24 // 4 + 2  # of the centre, behind the codes
    words[[first, first + 2]] ^= (
        0x7FC00000 & ~words[first]
    )  # in two words of 64 bits: their exclusive or stays
    words.tofile(path)
    assert np.isnan(words.view(np.float32)[first])
    with pytest.raises(
        UserError, match=r"codes.i8: damaged \(it holds NaN or infinity\): copy the index again"
    ):
        Index(folder)


@pytest.mark.parametrize("engine", ["scan", "int8", "float16", "lists"])
def test_a_full_disk_loses_nothing(make_index, engine, full_disk):
    vectors = unit_vectors(3000)
    folder = make_index(vectors[:1000], engine, items_named(1000))
    with Index(folder, writable=True) as index:
        full_disk(150_000)
        with pytest.raises(UserError, match="cannot write .*vectors.f32: File too large; what was acknowl"):
            index.add(items_named(2000, 1000), vectors[1000:])
        full_disk(resource.RLIM_INFINITY)
        assert index.card.count == 1000
        index.add(items_named(2000, 1000), vectors[1000:])
    full_disk(100_000)
    with pytest.raises(UserError, match="File too large; what was acknowledged before is intact|full"):
        build.compact(folder)
    full_disk(resource.RLIM_INFINITY)
    with Index(folder) as index:
        index.verify()
        assert index.card.count == 3000
        assert [hit.id for hit in index.search(vectors[2222:2223], 1)[0]] == ["p2222"]
    assert not (folder / "compacting").exists()
