"""Open an index by its address: a folder, or a collection of a Milvus."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from serving.index.index import Index

if TYPE_CHECKING:
    from serving.index.milvus.index import MilvusIndex


def milvus_address(address: str) -> tuple[str, str] | None:
    """Return the server's address, or the folder of a Milvus Lite, and the collection; None: another folder.

    Such addresses are http://HOST:PORT/COLLECTION and FOLDER.db/COLLECTION.
    """
    found = re.fullmatch(r"(https?://[^/]+|.*\.db)/([^/]+)", address)
    return (found[1], found[2]) if found else None


def open_index(address: str | Path, writable: bool = False, resident: bool = True) -> "Index | MilvusIndex":
    """Open an index; `writable` and `resident` as in `Index`. Raises UserError."""
    milvus = milvus_address(str(address))
    if milvus is None:
        return Index(address, writable, resident)
    from serving.index.milvus.index import MilvusIndex

    return MilvusIndex(*milvus)
