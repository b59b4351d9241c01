"""Loading pictures for a CNN, images/s: ours against a PyTorch DataLoader with plain PIL transforms.

Pictures are decoded, cropped, normalised and batched, without a model, by 0 and by 2 workers. Training takes
a random resized crop of 224 pixels and mirrors half of the crops; evaluation resizes the short side to 256
and takes the centre crop. Pictures are JPEGs of 500 x 375 pixels, as in COCO and Flickr30k, and of 2048 x
1536. If there is `../shared` (or RETRIEVAL_SHARED), real pictures of 256 pixels are added, where less can be
saved.

The baseline is the usual code with Pillow and torch: the whole picture is decoded, cropped, resized and
converted to a normalised tensor. Its workers are persistent processes, ours are threads. torch has one
thread, which is faster for such small tensors. On both sides a process keeps freed memory, as in our tools.
The files are in the page cache.
"""

from _photos import write_pictures
from _report import ROOT, alternate, report, seconds

import math
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datasets.pictures.picture import Unreadables
from datasets.prefetch import prefetched
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.transforms import Normalization, RandomResizedCrop, ResizeCentreCrop
from engine.runtime import keep_freed_memory

CROP, SHORT, BATCH = 224, 256, 32
WORKERS = (0, 2)
SIZES = {"500 x 375": (500, 375, 192), "2048 x 1536": (2048, 1536, 48)}  # width, height, pictures
REAL = 192
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        sources = {}
        for name, (width, height, count) in SIZES.items():
            sources[name] = Path(temporary) / name
            write_pictures(sources[name], width, height, count)
        shared = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared"))
        real = shared / "data" / "natural_images"
        if real.is_dir():
            sources["real, 256 pixels"] = real
        for name, folder in sources.items():
            for training in (True, False):
                compare(name, folder, training)


def compare(name: str, folder: Path, training: bool) -> None:
    """Measure both sides in turns on the pictures in `folder`, and report."""
    files = PictureFiles(folder)
    names = files.names[:REAL]
    stage = "training" if training else "evaluation"
    for workers in WORKERS:
        ours = partial(our_epoch, files, names, training, workers)
        baseline = plain_epoch([folder / name for name in names], training, workers)
        check(ours, baseline, training)
        times = alternate(partial(seconds, ours), partial(seconds, baseline))
        report(
            f"pictures of {name} for {stage}, {workers} workers, against a PyTorch DataLoader",
            *(len(names) / each for each in times),
            goal=1,
            unit="images/s",
            higher_is_better=True,
        )


def check(ours: Callable[[], np.ndarray], baseline: Callable[[], np.ndarray], training: bool) -> None:
    """Warm both sides up; raise RuntimeError if their evaluation pictures differ."""
    difference = np.abs(ours() - baseline()).mean()
    if not training and difference > 0.05:  # the values have a deviation of about 1
        raise RuntimeError(f"pictures differ by {difference:.2g} on average: there is nothing to compare")


def our_epoch(files: PictureFiles, names: list[str], training: bool, workers: int) -> np.ndarray:
    """Load all pictures with our loader; return the last batch [B,3,224,224]."""
    transform = RandomResizedCrop(CROP) if training else ResizeCentreCrop(SHORT, CROP)
    loader = PictureLoader(files, names, transform, Normalization(), Unreadables(refuse=True))
    batches = [range(start, min(start + BATCH, len(names))) for start in range(0, len(names), BATCH)]
    return last(prefetched(loader.read, batches, workers)).images[:, 0]


def plain_epoch(paths: list[Path], training: bool, workers: int) -> Callable[[], np.ndarray]:
    """Return a function that loads all pictures with a DataLoader and returns the last batch."""
    loader = DataLoader(
        PlainPictures(paths, training), BATCH, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: last(loader).numpy()


def last(batches: Iterable) -> object:
    """Return the last of `batches`, after going through all."""
    for batch in batches:  # noqa: B007
        pass
    return batch


class PlainPictures(Dataset):
    """A data set of pictures as it is usually written with Pillow and torch."""

    def __init__(self, paths: list[Path], training: bool) -> None:
        self.paths, self.training = paths, training

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        image = random_resized_crop(image) if self.training else resize_centre_crop(image)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return (tensor - MEAN) / DEVIATION


def random_resized_crop(image: Image.Image) -> Image.Image:
    """Return a random crop of `image`, resized to CROP pixels, and mirrored with a probability of 1/2."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if across <= width and down <= height:
            break
    else:
        across = down = min(width, height)
    left, upper = random.randint(0, width - across), random.randint(0, height - down)
    image = image.crop((left, upper, left + across, upper + down)).resize((CROP, CROP), Image.BILINEAR)
    return image.transpose(Image.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def resize_centre_crop(image: Image.Image) -> Image.Image:
    """Return the centre crop of `image` with its short side resized to SHORT pixels."""
    width, height = image.size
    scale = SHORT / min(width, height)
    image = image.resize((max(SHORT, int(width * scale)), max(SHORT, int(height * scale))), Image.BILINEAR)
    left, upper = round((image.width - CROP) / 2), round((image.height - CROP) / 2)
    return image.crop((left, upper, left + CROP, upper + CROP))


if __name__ == "__main__":
    main()
