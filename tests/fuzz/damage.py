"""Ways to damage a file, as hypothesis strategies: what disks, transfers and other programs do to it."""

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

_place = st.floats(0, 1, exclude_max=True)
_length = st.sampled_from([1, 1, 1, 2, 4, 8, 16, 100, 1000])
_change = st.one_of(
    st.tuples(st.just("cut"), _place, _length),
    st.tuples(st.just("drop"), _place, _length),
    st.tuples(st.just("repeat"), _place, _length),
    st.tuples(st.just("swap"), _place, _place),
    st.tuples(st.just("flip"), _place, st.integers(1, 255)),
    st.tuples(st.just("set"), _place, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])),
    st.tuples(st.just("insert"), _place, st.sampled_from(TOKENS)),
    st.tuples(st.just("replace"), _place, st.sampled_from(TOKENS)),
    st.tuples(st.just("whole"), _place, st.sampled_from(WHOLE)),
)
changes = st.lists(_change, min_size=1, max_size=4)


def damaged(data: bytes, made: list[tuple]) -> bytes:
    """Return `data` after the changes that `changes` drew, each at a share of its length."""
    for kind, where, what in made:
        at = int(where * len(data))
        if kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + what :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + what] * 2 + data[at + what :]
        elif kind == "swap":
            low, high = sorted((at, int(what * len(data))))
            data = data[high:] + data[low:high] + data[:low]
        elif kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
        elif kind == "set" and data:
            data = data[:at] + bytes([what]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "replace":
            data = data[:at] + what + data[at + max(1, len(what)) :]
        elif kind == "whole":
            data = what
    return data
