"""The same index in a folder of Milvus Lite and in a real server; traps of both are never stepped into."""

import contextlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from config.errors import UserError
from serving.index.address import milvus_address, open_index
from serving.index.filters import parse_filter
from serving.index.index import Index
from serving.index.items import Item
from serving.index.milvus import connection, copying
from serving.index.milvus.conditions import as_milvus
from serving.index.milvus.connection import Connection
from serving.index.milvus.copying import copy_to_milvus
from serving.index.milvus.index import MilvusIndex
from tests.milvus_server import free_port, running_server
from tests.serving.index.test_filters import KEYS, METADATA
from tests.vector_makers import items_named, unit_vectors

pytest.importorskip("pymilvus")
SERVER = pytest.param("server", marks=pytest.mark.milvus)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("milvus")
    with running_server(tmp_path_factory.mktemp("milvus")) as address:
        yield address


@pytest.fixture
def address(request, tmp_path):
    """Return the address of a Milvus Lite, or of the server that all tests share."""
    if request.param == "lite":
        pytest.importorskip("milvus_lite")
        return str(tmp_path / "lite.db")
    return request.getfixturevalue("server")


everywhere = pytest.mark.parametrize("address", ["lite", SERVER], indirect=True)


def ids(hits) -> list[str]:
    return [hit.id for hit in hits]


def collection(request) -> str:
    return "c" + str(abs(hash(request.node.name)))


@everywhere
def test_it_finds_what_the_folder_finds_while_it_is_changed(make_index, address, request):
    vectors, queries = unit_vectors(220), unit_vectors(10, seed=1)
    vectors[100:150] = vectors[3]  # ties stand in the order of items
    local, name = make_index(vectors[:200], items=items_named(200)), collection(request)
    card = copy_to_milvus(local, address, name, None)
    assert card.recall_at_10 == 1.0 and card.count == 200
    with MilvusIndex(address, name) as index, Index(local, writable=True) as folder:
        assert index.card.count == 200
        for each in (index, folder):
            each.add(items_named(20, 200), vectors[200:])
            each.delete(["p3", "p110", "p205"])
            each.add([Item("p7", "anew", {"colour": "pink"})], vectors[:1], replace=True)
            each.describe([Item("p8", "later", {"colour": "pink"})])
        for where in (None, 'colour = "green" and number < 150', 'colour = "pink"', 'tags contains "red"'):
            expected, found = folder.search(queries, 12, where), index.search(queries, 12, where)
            assert [ids(hits) for hits in found] == [ids(hits) for hits in expected], where
            assert found == expected  # scores, captions and metadata too
        assert ids(index.search(vectors[3:4], 20)[0])[:3] == ["p100", "p101", "p102"]
        assert index.card.count == folder.card.count == 217
        assert {item.id: item for item in index.items()} == {item.id: item for item in folder.items()}
        assert np.array_equal(index.vectors_of(["p9", "p219"]), vectors[[9, 219]])
        assert index.sample(50).shape == (50, 24) or len(index.sample(50)) >= 45
        index.verify()
    with MilvusIndex(address, name) as again:  # a collection that is opened again must be loaded
        assert ids(again.search(vectors[219:220], 1)[0]) == ["p219"]


@everywhere
def test_filters_mean_the_same(make_index, address, request):
    items = [Item(f"i{row}", f"a dog {row}" if row else None, each) for row, each in enumerate(METADATA)]
    local, name = make_index(unit_vectors(len(items)), items=items), collection(request)
    copy_to_milvus(local, address, name, None)
    with MilvusIndex(address, name) as index, Index(local) as folder:
        for where in (
            *("year >= 2010", "year != 2010", "not year = 2010", "seen = true", "seen = 1", "not seen = 1"),
            *('year = "2010"', "has tags", "not (year > 2000 or has tags)", 'place = "say \\"hi\\""'),
            *('tags contains "park"', "tags contains 3", 'camera.maker = "Leica"', '"camera.lens mm" > 49.5'),
            *('id in ["i2", "i4"] and not has caption or id = "i5"', "year > 1e400", "not has caption"),
            *("has seen", "not has seen", "seen != true", 'not (place in ["Bern"] and year > 3)'),
        ):
            query = unit_vectors(1, seed=3)
            assert ids(index.search(query, 9, where)[0]) == ids(folder.search(query, 9, where)[0]), where
        with pytest.raises(UserError, match="no item has the key 'yaer'; did you mean year"):
            index.search(unit_vectors(1), 3, "yaer = 3")
        with pytest.raises(UserError, match="a Milvus finds members of lists, not parts of texts"):
            index.search(unit_vectors(1), 3, 'caption contains "dog"')


@everywhere
def test_what_milvus_would_do_without_a_word_is_refused(make_index, address, request):
    """It replaces repeated ids, deletes what never existed, and Milvus Lite stores NaN, which then wins."""
    local, name = make_index(unit_vectors(30)), collection(request)
    copy_to_milvus(local, address, name, None)
    with MilvusIndex(address, name) as index:
        for call, message in (
            (lambda: index.add([Item("p1")], unit_vectors(1)), "there is an item 'p1' already"),
            (lambda: index.delete(["p1", "zzz"]), "there is no item 'zzz': nothing has been changed"),
            (lambda: index.add([Item("n")], np.full((1, 24), np.nan)), "row 1 holds NaN"),
            (lambda: index.add([Item('a"] or id != ["')], unit_vectors(1)), "without quotation marks"),
            (lambda: index.delete(['a" or id != "']), "without quotation marks"),
            (lambda: index.search(unit_vectors(1), 1001), "at most 1000 hits of a Milvus, got 1001"),
            (lambda: index.search(2 * unit_vectors(1), 3), "has the length 2, expected 1"),
            (lambda: index.check_bundle("b" * 64), "and the query is of the bundle bbbb"),
            (lambda: index.vectors_of(["zzz"]), "there is no item 'zzz'"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                call()
            assert "\n" not in str(caught.value)
        assert index.card.count == 30
        many = ids(index.search(unit_vectors(1), 30)[0])
        assert len(set(many)) == 30


@everywhere
def test_a_new_model_takes_the_place_of_the_old_in_one_step(make_index, address, request):
    vectors, other, name = unit_vectors(20), unit_vectors(20, 16, seed=5), collection(request)
    copy_to_milvus(make_index(vectors), address, name, None)
    copy_to_milvus(make_index(other, name="second"), address, name, None)
    with MilvusIndex(address, name) as index:
        assert index.card.dimension == 16 and index.card.previous == "0001"
        assert ids(index.search(other[4:5], 1)[0]) == ["p4"]
        index.drop_previous()
        with pytest.raises(UserError, match="it keeps no older data"):
            index.drop_previous()


@everywhere
def test_an_index_of_another_metric_is_refused(make_index, address, request, monkeypatch):
    name = collection(request)
    monkeypatch.setattr(copying, "create_items", _with_l2)
    monkeypatch.setattr(copying, "_measure", lambda milvus, name, card, *rest: card)
    copy_to_milvus(make_index(unit_vectors(9)), address, name, None)
    with pytest.raises(UserError, match="its vectors are not compared by inner products"):
        MilvusIndex(address, name)


def _with_l2(milvus: Connection, collection: str, dimension: int, kind: str, parameters: dict) -> None:
    from pymilvus import DataType

    schema = milvus.schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = milvus.index_parameters()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    milvus.call("create_collection", collection, schema=schema, index_params=index)


@everywhere
def test_a_name_that_holds_no_index(address):
    with pytest.raises(UserError, match="there is no index; tools/build_index.py --out .*nothing builds one"):
        MilvusIndex(address, "nothing")


def test_milvus_lite_is_released_and_says_who_holds_it(make_index, tmp_path):
    pytest.importorskip("milvus_lite")
    address = str(tmp_path / "lite.db")
    copy_to_milvus(make_index(unit_vectors(9)), address, "mine", None)
    command = [sys.executable, "-c", _OPEN, address]
    with MilvusIndex(address, "mine"):
        held = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process has it open, and Milvus Lite serves one at a time" in held.stdout
    released = subprocess.run(command, capture_output=True, text=True, check=False)
    assert released.stdout == "9\n", released


_OPEN = """
import sys
from config.errors import UserError
from serving.index.milvus.index import MilvusIndex
try:
    with MilvusIndex(sys.argv[1], "mine") as index:
        print(index.card.count)
except UserError as error:
    print(error)
"""


def test_order_similarity_stays_in_a_folder(make_index, tmp_path):
    pytest.importorskip("milvus_lite")
    local = make_index(np.abs(unit_vectors(9)), measure="order")
    with pytest.raises(UserError, match="order similarity has exact search in a folder only"):
        copy_to_milvus(local, str(tmp_path / "lite.db"), "mine", None)


def test_a_milvus_that_is_away():
    with pytest.raises(UserError, match="Milvus cannot be reached .*; what it has acknowledged is stored"):
        MilvusIndex(f"http://127.0.0.1:{free_port()}", "mine")


@pytest.mark.milvus
def test_a_connection_that_is_lost_in_the_middle(make_index, server, monkeypatch):
    """A proxy passes what is sent, then stops: one line says so, and what was acknowledged is there."""
    vectors = unit_vectors(40)
    copy_to_milvus(make_index(vectors[:20], items=items_named(20)), server, "lost", None)
    monkeypatch.setattr(connection, "SECONDS", 5.0)
    with Proxy(int(server.rpartition(":")[2])) as proxy:
        with MilvusIndex(f"http://127.0.0.1:{proxy.port}", "lost") as index:
            index.add(items_named(10, 20), vectors[20:30])
            proxy.cut()
            with pytest.raises(UserError, match=r"127.0.0.1:\d+: Milvus failed \(") as caught:
                index.add(items_named(10, 30), vectors[30:])
            assert "\n" not in str(caught.value)
            with pytest.raises(UserError, match="Milvus failed"):
                index.search(vectors[:1], 1)
    with MilvusIndex(server, "lost") as index:
        assert ids(index.search(vectors[29:30], 1)[0]) == ["p29"]
        index.add(items_named(10, 30), vectors[30:], replace=True)
        assert index.card.count == 40


@pytest.mark.milvus
def test_a_milvus_that_is_slow(make_index, server, monkeypatch):
    vectors = unit_vectors(20)
    copy_to_milvus(make_index(vectors), server, "slow", None)
    with Proxy(int(server.rpartition(":")[2])) as proxy:
        with MilvusIndex(f"http://127.0.0.1:{proxy.port}", "slow") as index:
            monkeypatch.setattr(connection, "SECONDS", 2.0)
            proxy.flows.clear()
            with pytest.raises(
                UserError, match="Milvus failed .*what it has acknowledged is stored"
            ) as caught:
                index.search(vectors[:1], 1)
            assert "\n" not in str(caught.value)
            proxy.flows.set()
            monkeypatch.setattr(connection, "SECONDS", 60.0)
            assert ids(index.search(vectors[:1], 1)[0]) == ["p0"]


class Proxy:
    """Passes connections on to a port of this machine until it is cut, and while `flows` is set."""

    def __init__(self, target: int) -> None:
        self._target, self._open = target, []
        self.flows = threading.Event()
        self.flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()

    def cut(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pass, args=(source, target, self.flows), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket, flows: threading.Event) -> None:
    try:
        while data := source.recv(1 << 16):
            flows.wait()
            target.sendall(data)
    except OSError:
        pass


def test_addresses(tmp_path):
    assert milvus_address("http://localhost:19530/photos") == ("http://localhost:19530", "photos")
    assert milvus_address("out/dev.db/photos") == ("out/dev.db", "photos")
    assert milvus_address("out/photos.index") is None
    with pytest.raises(UserError, match="no card.json"):
        open_index(tmp_path)


def test_the_opposite_of_a_condition_is_written_with_exists():
    condition = parse_filter("not (year = 2010 and has tags)", KEYS)
    assert as_milvus(condition) == (
        '((not (exists metadata["year"]["number"]) or not (metadata["year"]["number"] == 2010)) '
        'or (not (exists metadata["tags"])))'
    )
