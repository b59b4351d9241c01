"""What an operator decides about the service: addresses, keys and limits."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError

SHORTEST_KEY = 16


@dataclass(frozen=True)
class Settings:
    """How the service listens, whom it serves, and how much of anything it takes.

    `write_key` lets change the index, and None lets nobody; `read_key` is asked of readers, and the key for
    writing reads too. `hosts` are names under which it may be called besides the one that it listens on.
    Seconds are wall clock; bytes and pixels are those of one request. `most_together` 1 answers one by one.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    write_key: str | None = None
    read_key: str | None = None
    hosts: tuple[str, ...] = ()
    log_queries: bool = False
    upload_bytes: int = 10 << 20
    upload_pixels: int = 25_000_000
    upload_seconds: float = 20.0
    deadline_seconds: float = 10.0
    queue: int = 64  # of each index, with those that are being answered
    most_together: int = 64
    pictures_at_once: int = 8

    @property
    def loopback(self) -> bool:
        """Return whether only programs on this machine can call."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> "Settings":
        """Return these settings; raise UserError where they would serve others without a key."""
        if not self.loopback and not (self.read_key or self.write_key):
            raise UserError(
                f"--host {self.host}: others could read the index: give --read_key_file or --key_file, or "
                "listen on 127.0.0.1"
            )
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port: expected 0 to 65535, got {self.port}")
        return self


def read_key_file(path: str | Path) -> str:
    """Return the key in a file; raise UserError for a file that is unreadable, or a key that is guessable."""
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text file with a key ({error})") from error
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise UserError(
            f"{path}: expected a key of at least {SHORTEST_KEY} printable ASCII characters on one line, such "
            "as `openssl rand -hex 24` makes"
        )
    return key


def for_each(option: str, given: list[str], number: int) -> list[str | None]:
    """Return what was given for each of `number` indexes: one for all, or one for each; UserError else."""
    if len(given) not in (0, 1, number):
        raise UserError(f"{option}: expected one, or {number}: one for each --index, got {len(given)}")
    return (given or [None]) * (1 if len(given) == number else number)


def distinct_names(addresses: Sequence[str]) -> list[str]:
    """Return a name for each index: of its folder, with as many of those above as tell it from the others."""
    parts = [[part for part in address.split("/") if part] for address in addresses]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("--index: expected different indexes, got one twice")
