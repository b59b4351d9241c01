"""Writing a file whole or not at all."""

import os
from pathlib import Path

from config.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside `path` and rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; what was there before is intact") from error
