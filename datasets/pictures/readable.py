"""Which pictures of a folder cannot be read: known before anything is made of the others."""

from config.progress import ShowProgress, no_progress
from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import Picture, UnreadableError
from datasets.prefetch import prefetched

_THREADS = 2
_SMALLEST = 8  # of its size: so a JPEG's whole code is read, and an eighth of its pixels are made


def find_unreadable(files: PictureFiles, show: ShowProgress = no_progress) -> dict[str, str]:
    """Return, by name, why each picture that cannot be decoded cannot be."""

    def problem(name: str) -> str | None:
        try:
            Picture(files.read(name)).decode(_SMALLEST)
        except UnreadableError as error:
            return str(error)
        return None

    found = {}
    for number, (name, why) in enumerate(
        zip(files.names, prefetched(problem, files.names, _THREADS), strict=True), start=1
    ):
        if why is not None:
            found[name] = why
        show("looking at pictures", number, len(files.names))
    return found
