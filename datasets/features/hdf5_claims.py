"""Whether an HDF5 file has the bytes that its data sets claim, before HDF5 reads them.

HDF5 2.0 believes any shape and any length that is noted beside a text, reserves the memory for it, and walks
for ever through a heap of texts in which a damaged size is 0. So the notes are compared with the file first.
Source: HDF5 File Format Specification 3.0, III.E "Global Heap".
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from datasets.features.positional import PositionalFile

if TYPE_CHECKING:
    import h5py

_MOST_PACKED = 1032  # bytes that a byte of deflate can hold
_HEAD = 16  # bytes before the objects of a heap, and before the content of each
# How a text is stored in a data set: its length, the place of its heap, and its number in it.
_TEXT = np.dtype([("length", "<u4"), ("heap", "<u8"), ("object", "<u4")])


def can_hold(file: PositionalFile, data: "h5py.Dataset") -> bool:
    """Return whether the file has the bytes that a data set claims, in numbers or in texts.

    Texts in compressed chunks are not looked at, nor those of files with places of other sizes.
    """
    import h5py

    size = file.size()
    packed = data.chunks or data.external or data.is_virtual
    if data.nbytes > size * (_MOST_PACKED if packed else 1):
        return False
    text = h5py.check_string_dtype(data.dtype)
    if text is None or text.length is not None or not data.size or not _has_plain_places(data):
        return True
    texts = [np.frombuffer(part[: len(part) // 16 * 16], _TEXT) for part in _parts(file, data)]
    texts = np.concatenate(texts) if texts else np.zeros(0, _TEXT)
    texts = texts[texts["length"] > 0]
    lengths, heaps = texts["length"], np.unique(texts["heap"])
    return int(lengths.sum(dtype=np.int64)) <= size and all(_is_whole(file, int(heap)) for heap in heaps)


def _has_plain_places(data: "h5py.Dataset") -> bool:
    """Return whether places in the file count from its first byte in eight bytes, as nearly always."""
    sizes = data.file.id.get_create_plist().get_sizes()
    return sizes == (8, 8) and not data.file.userblock_size and not data.id.get_create_plist().get_nfilters()


def _parts(file: PositionalFile, data: "h5py.Dataset") -> Iterator[bytes]:
    """Yield the stored bytes of a data set without filters."""
    if data.chunks:
        for part in map(data.id.get_chunk_info, range(data.id.get_num_chunks())):
            yield file.read(part.byte_offset, part.size)
    elif data.id.get_offset() is not None:
        yield file.read(data.id.get_offset(), data.id.get_storage_size())


def _is_whole(file: PositionalFile, place: int) -> bool:
    """Return whether the objects of the heap at `place` follow each other to its end."""
    head = file.read(place, _HEAD) if place < file.size() else b""
    size = int.from_bytes(head[8:], "little")
    if head[:5] != b"GCOL\x01" or size > file.size() - place:
        return False
    heap, at = file.read(place, size), _HEAD
    while at + _HEAD <= size:
        number, length = (
            int.from_bytes(heap[at : at + 2], "little"),
            int.from_bytes(heap[at + 8 : at + 16], "little"),
        )
        step = _HEAD + (length + 7) // 8 * 8 if number else length  # what is free counts its own head
        if step < _HEAD or at + step > size:
            return False
        at += step
    return True
