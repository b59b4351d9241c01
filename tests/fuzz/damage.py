"""Ways to damage a file, drawn by hypothesis or by a generator: what disks and other programs do to it.

A change is a name, a share of the file's length at which it happens, and what happens there. Two look into
what a file holds, where damage to its bytes would seldom get past a checksum or a parser: a value of JSON
becomes another value, and a member of a zip or gzip file is damaged and packed again.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from hypothesis import strategies as st

# What stands where something else is expected.
TOKENS = (
    *(
        b"",
        b"\0",
        b"\n",
        b"\n\n",
        b"\r",
        b"\t",
        b" ",
        b",",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\xff\xfe",
    ),
    *(b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 400, b"1.5", b"{}"),
    *(
        b"[]",
        b'""',
        b"[[",
        b"\xef\xbb\xbf",
        b"\xf0\x9f\x90\x95",
        b"\xed\xa0\x80",
        "é\u0301".encode(),
        b"!!python/",
    ),
    *(
        b"&a",
        b"*a",
        b"<<",
        b"<html>",
        b"\x80\x02.",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"2147483648",
        b"99999999999",
    ),
)
WHOLE = (
    b"",
    b"\n",
    b"\0" * 100,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b"<!DOCTYPE html><html><body>Not found</body></html>\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00true\x85R.",
    b"\x89PNG\r\n\x1a\n",
    b"\x89HDF\r\n\x1a\n",
    b"\x93NUMPY\x01\x00",
    b"PK\x05\x06" + b"\0" * 18,
    b"\xff\xfea\0\n\0",
    b"x" * 1_000_000,
)

# What stands where JSON has another value.
VALUES = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**30, float("inf"), float("nan"), "", "a", "é", "1"),
    *("\n", "\0", "\ud800", "x" * 1000, [], {}, [[]], [1], [None], ["a"], {"a": 1}, [[1, 2], [3]], [{}]),
)
LENGTHS = (1, 1, 1, 2, 4, 8, 16, 100, 1000)
# What each change is told beside its place; None: another place.
PLAIN = {
    "cut": LENGTHS,
    "drop": LENGTHS,
    "repeat": LENGTHS,
    "swap": None,
    "flip": tuple(range(1, 256)),
    "set": (0, 1, 0x7F, 0x80, 0xFF),
    "insert": TOKENS,
    "replace": TOKENS,
    "value": VALUES,
}
MOST = 4  # changes of a file
RARELY = 0.02  # share of the drawn changes that replace the whole file

_place = st.floats(0, 1, exclude_max=True)
_plain = st.one_of(
    st.tuples(st.just(kind), _place, st.sampled_from(what) if what else _place)
    for kind, what in PLAIN.items()
)
_change = st.one_of(
    _plain,
    st.tuples(st.just("member"), _place, _plain),
    st.tuples(st.just("whole"), _place, st.sampled_from(WHOLE)),
)
changes = st.lists(_change, min_size=1, max_size=MOST)


def drawn_changes(random: Random) -> list[tuple]:
    """Return changes as `changes` has them, without hypothesis, which takes longer than most readers."""
    count = min(random.randint(1, MOST), random.randint(1, MOST))  # one is found out last
    return [_drawn(random) for _ in range(count)]


def _drawn(random: Random) -> tuple:
    if random.random() < RARELY:
        return "whole", random.random(), random.choice(WHOLE)
    kind = random.choice((*PLAIN, "member"))
    if kind == "member":
        nested = random.choice(tuple(PLAIN))
        return kind, random.random(), (nested, random.random(), _told(random, nested))
    return kind, random.random(), _told(random, kind)


def _told(random: Random, kind: str) -> object:
    return random.choice(PLAIN[kind]) if PLAIN[kind] else random.random()


def damaged(data: bytes, made: list[tuple]) -> bytes:
    """Return `data` after the changes that were drawn, each at a share of its length."""
    for kind, where, what in made:
        data = _changed(data, kind, where, what)
    return data


def _changed(data: bytes, kind: str, where: float, what: object) -> bytes:
    at = int(where * len(data))
    if kind == "whole":
        return what
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[at + what :]
    if kind == "repeat":
        return data[:at] + data[at : at + what] * 2 + data[at + what :]
    if kind == "swap":
        low, high = sorted((at, int(what * len(data))))
        return data[high:] + data[low:high] + data[:low]
    if kind == "insert":
        return data[:at] + what + data[at:]
    if kind == "replace":
        return data[:at] + what + data[at + max(1, len(what)) :]
    if kind == "value":
        return _other_value(data, where, what)
    if kind == "member":
        return _other_member(data, where, what)
    if not data:
        return data
    return data[:at] + bytes([data[at] ^ what if kind == "flip" else what]) + data[at + 1 :]


def _other_value(data: bytes, where: float, value: object) -> bytes:
    """Return data whose JSON has another value: the file's, a line's, or that of safetensors' header."""
    size = int.from_bytes(data[:8], "little")
    if 0 < size <= len(data) - 8:
        header = _other_json(data[8 : 8 + size], where, value)
        if header is not None:
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
    whole = _other_json(data, where, value)
    if whole is not None:
        return whole
    lines = data.split(b"\n")
    row = int(where * len(lines))
    columns = lines[row].split(b"\t")  # a detector's JSON stands in the last
    columns[-1] = _other_json(columns[-1], where * len(lines) - row, value) or columns[-1]
    lines[row] = b"\t".join(columns)
    return b"\n".join(lines)


def _other_json(text: bytes, where: float, value: object) -> bytes | None:
    """Return JSON in which one of all values is another; None where the text is none, or too deep."""
    try:
        holder = [json.loads(text)]
        places: list[tuple] = [(holder, 0)]
        for owner, key in places:
            inner = owner[key]
            if isinstance(inner, dict | list):
                places += [
                    (inner, each) for each in (inner if isinstance(inner, dict) else range(len(inner)))
                ]
        owner, key = places[int(where * len(places))]
        owner[key] = value
        return json.dumps(holder[0]).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None


def _other_member(data: bytes, where: float, nested: tuple) -> bytes:
    """Return a zip or gzip file in which one member is damaged; of any other file, the damage itself."""

    def harmed(member: bytes) -> bytes:
        return _changed(member, *nested)

    try:
        if data[:2] == b"PK":
            return _packed_again(data, where, harmed)
        if data[:2] == b"\x1f\x8b":
            return gzip.compress(harmed(gzip.decompress(data)), 1, mtime=0)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError):
        pass  # it was damaged before
    return harmed(data)


def _packed_again(data: bytes, where: float, harmed: Callable[[bytes], bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w") as target:
        members = source.infolist()
        chosen = int(where * len(members))
        for row, member in enumerate(members):
            content = source.read(member)
            target.writestr(member, harmed(content) if row == chosen else content)
    return packed.getvalue()
