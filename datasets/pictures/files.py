"""Find and read the pictures of a folder and its subfolders, or of a zip file of one."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from config.errors import UserError, cut
from config.files.kinds import mistaken_kind
from datasets.names import composed
from datasets.pictures.picture import UnreadableError

ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".jfif"),
)
_MAX_BYTES = 1 << 30  # of one picture's file
# What zipfile raises for damaged files.
_BROKEN_ZIP = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, IndexError, KeyError, OverflowError),
    *(NotImplementedError, struct.error),
)


class PictureFiles:
    """The pictures of a folder, or of a zip file, subfolders included; threads may read them together.

    `path` is the folder or zip file as given. `names` are the pictures' paths inside it, with `/`, sorted.
    Hidden files are left out, and files without a picture's ending, which are `others`. Raises `UserError` if
    there is no picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            found = _walk(self.path)
        elif self.path.is_file():
            self._zip = _open_zip(self.path)
            names = (info.filename for info in self._zip.infolist())
            found = [name for name in names if name and not name.endswith("/")]  # a damaged name is empty
        else:
            raise UserError(f"{self.path}: no such folder, expected one with pictures, or a zip file of one")
        seen = sorted(name for name in found if not _is_hidden(name))
        self.names = [name for name in seen if _is_picture(name)]
        self.others = [name for name in seen if not _is_picture(name)]
        self._by_file: dict[str, list[str]] = {}
        if not self.names:
            example = f", such as {cut(self.others[0])}" if self.others else ""
            raise UserError(
                f"{self.path}: no pictures among its {len(found)} files{example}, expected names that end "
                f"with {', '.join(ENDINGS)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture's file.

        Raises `UnreadableError` if that fails, and `UserError` for a zip file that needs a password or
        another program.
        """
        try:
            if self._zip is None:
                return (self.path / name).read_bytes()
            info = self._zip.getinfo(name)
            if info.file_size > _MAX_BYTES:
                raise UnreadableError(f"{info.file_size:,} bytes in the zip file (a bomb?)")
            return self._zip.read(info)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"{self.path}: {cut(name)} cannot be unpacked ({cut(error, 60)}): unzip it yourself"
            ) from error
        except _BROKEN_ZIP as error:
            raise UnreadableError(f"damaged in the zip file ({cut(error, 60)})") from error

    def place(self, name: str) -> tuple[object, ...]:
        """Return where a picture lies, the same for all names and links that lead to it."""
        if self._zip is not None:
            return str(self.path.resolve()), name
        try:
            status = (self.path / name).stat()
        except OSError:
            return str(self.path), name
        return status.st_dev, status.st_ino

    def size(self, name: str) -> int:
        """Return the bytes of a picture's file; -1 if there is none."""
        if self._zip is not None:
            return self._zip.getinfo(name).file_size
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return -1

    def find(self, wanted: Sequence[str], places: Iterable[str]) -> list[str]:
        """Return the pictures that another file calls `wanted`; `places` tell where, such as `a.csv line 3`.

        A name is a picture's path, the end of that path, or a path that begins above the folder; its ending
        may be missing, and letters with accents may be written in another of Unicode's forms. Raises
        `UserError` for names that fit no picture, of which it tells the number and the first five, and for
        one that fits several.
        """
        found, absent = [], []
        for name, place in zip(wanted, places, strict=True):
            fits = self.fitting(name)
            if len(fits) > 1:
                shown = f"{cut(fits[0])} and {cut(fits[1])}"
                raise UserError(
                    f"{place}: {len(fits)} pictures, such as {shown} for {cut(name)!r} in {self.path}: "
                    "name it with its folder"
                )
            if fits:
                found += fits
            else:
                absent.append((place, name))
        if absent:
            place, name = absent[0]
            others = [cut(other) for other in dict.fromkeys(other for _, other in absent)][1:5]
            more = f", nor for {', '.join(map(repr, others))}" if others else ""
            count = f" ({len(absent)} of {len(wanted)} are missing)" if len(absent) > 1 else ""
            raise UserError(
                f"{place}: no picture for {cut(name)!r} in {self.path}{more}{count}: add it, or remove "
                "the line"
            )
        return found

    def fitting(self, name: str) -> list[str]:
        """Return the pictures that another file may call `name`; a picture of that path is the only one."""
        if not self._by_file:
            self._by_file = _by_file(self.names)
        given = PurePosixPath(composed(name).replace("\\", "/"))
        candidates = self._by_file.get(given.name, [])
        if name in candidates:
            return [name]
        whole = [each for each in candidates if composed(each) in (composed(name), str(given))]
        return whole or _agreeing(given, candidates)

    def fingerprint(self, name: str) -> tuple[int, int]:
        """Return the bytes of a picture's file, and when it was changed or, in a zip file, its checksum.

        A file that is not there, such as a link that leads nowhere, has (-1, 0).
        """
        if self._zip is not None:
            info = self._zip.getinfo(name)
            return info.file_size, info.CRC
        try:
            status = (self.path / name).stat()
        except OSError:
            return -1, 0
        return status.st_size, status.st_mtime_ns


class NamedPictures(PictureFiles):
    """Pictures at paths of their own, such as that of a query, which need no ending and no common folder.

    Raises `UserError` for a path at which there is no file.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.path, self._zip = Path(), None
        self.names, self.others, self._by_file = [str(path) for path in paths], [], {}
        missing = next((name for name in self.names if not os.path.isfile(name)), None)
        if missing is not None:
            raise UserError(f"{missing}: no such file, expected a picture")


class HeldPictures(PictureFiles):
    """Pictures in memory, such as those that came over a network: `held` has the bytes of each file."""

    def __init__(self, held: Sequence[bytes]) -> None:
        self.path, self._zip, self._held = Path(), None, {}
        for number, data in enumerate(held, 1):
            self._held[f"picture {number}" if len(held) > 1 else "picture"] = data
        self.names, self.others, self._by_file = list(self._held), [], {}

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture's file."""
        return self._held[name]


def _by_file(names: list[str]) -> dict[str, list[str]]:
    """Return the paths by the name of their file, with and without its ending."""
    found: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(composed(name))
        for key in {path.name, path.stem}:
            found.setdefault(key, []).append(name)
    return found


def _agreeing(given: PurePosixPath, candidates: list[str]) -> list[str]:
    """Return the candidates whose folders equal those of `given`, from the last one as far as both go."""
    folders = given.parent.parts[::-1]
    return [
        name
        for name in candidates
        if all(
            ours == theirs
            for ours, theirs in zip(PurePosixPath(composed(name)).parent.parts[::-1], folders, strict=False)
        )
    ]


def _walk(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(parent).relative_to(folder)
        names += [(inside / name).as_posix() for name in files]
    return names


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _BROKEN_ZIP as error:
        otherwise = (
            f"expected a folder of pictures, or a zip file of one ({cut(error, 60)}): unpack it, and "
            "name the folder"
        )
        raise UserError(f"{path}: {mistaken_kind(path) or otherwise}") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)
