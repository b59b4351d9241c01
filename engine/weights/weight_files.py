"""Opens a file of weights of any library, told by its content: torch, Paddle or safetensors."""

from pathlib import Path

from config.files.kinds import is_zip
from engine.weights.paddle_files import open_paddle_file
from engine.weights.tensor_files import open_safetensors
from engine.weights.torch_files import open_torch_file

_STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled


def open_weights(path: Path) -> object:
    """Return the content of `path`, with each tensor as a `StoredTensor`; raise UserError if that fails.

    A file of no known beginning is taken for one of Paddle by its name, else for one of torch.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        zipped = is_zip(path)
    except OSError:
        head, zipped = b"", False  # the reader says what is wrong
    if zipped or head.startswith(_STREAM):
        return open_torch_file(path)
    if path.suffix == ".safetensors" or head[8:10] == b'{"':
        return open_safetensors(path)
    is_pickle = head[:1] == b"\x80" and len(head) == 16
    return (open_paddle_file if is_pickle or _names_paddle(path) else open_torch_file)(path)


def _names_paddle(path: Path) -> bool:
    return path.suffix == ".pdparams" or path.name.startswith("paddle")
