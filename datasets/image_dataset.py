"""Pictures with classes, in the batches that train and evaluate an image encoder."""

import json

import numpy as np

from config.errors import UserError
from datasets.fingerprint import digest_of
from datasets.pictures.lists import LabelledPictures
from datasets.pictures.loader import PictureLoader


class ImageDataset:
    """One split of pictures with classes.

    `name` is the name of the split. `image_ids` are the pictures' names. `labels` (int64 [N]) are 0 to K-1,
    and `class_names` [K] their names. `together` is the number of consecutive rows of a batch that belong
    together, such as the three of a triplet: if one of them cannot be read, the batch lacks them all.
    """

    def __init__(
        self, name: str, loader: PictureLoader, pictures: LabelledPictures, together: int = 1
    ) -> None:
        self.name = name
        self.loader = loader
        self.image_ids = pictures.names
        self.labels = pictures.labels
        self.class_names = pictures.class_names
        self.num_images = len(pictures.names)
        self._together = together

    def describe(self) -> str:
        """Return one line about what the split holds."""
        return f"{self.name}: {self.num_images} pictures of {len(self.class_names)} classes"

    def fingerprint(self) -> dict[str, str]:
        """Return what tells cheaply whether pictures, by name and size, and classes are the same."""
        sizes = np.array([self.loader.files.size(name) for name in self.image_ids])
        return {
            "pictures": digest_of(self.image_ids, sizes),
            "classes": digest_of(self.class_names, self.labels),
        }

    def unknown_share(self) -> float:
        """Return 0: a picture has no words."""
        return 0.0

    def batch(self, images: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Return the readable ones of B pictures, cropped as in `epoch`.

        `pixels` is float32 [B,3,H,W]; `label` and `image_id` are int64 [B]. Raises `UserError` if no picture
        can be read.
        """
        found = self.readable(images, epoch)
        if found is None:
            raise UserError(
                f"{self.loader.files.path}: none of the {len(images)} pictures of a batch can be read, such "
                f"as {self.image_ids[images[0]]}: mend or remove them"
            )
        return found

    def readable(self, images: np.ndarray, epoch: int) -> dict[str, np.ndarray] | None:
        """Return what `batch` returns, but None if no picture can be read."""
        read = self.loader.read(images, epoch)
        group = read.kept // self._together
        whole = np.flatnonzero(np.bincount(group, minlength=1)[group] == self._together)
        if not len(whole):
            return None
        chosen = np.asarray(images)[read.kept[whole]]
        views = read.images[:, 0]
        if len(whole) < len(views):
            views = views[whole]
        return {"pixels": views, "label": self.labels[chosen], "image_id": chosen.astype(np.int64)}


class ClassNames:
    """The classes that a model was trained on, in the order of its labels; a checkpoint stores them."""

    file_name = "classes.json"

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def to_text(self) -> str:
        """Return the content of the file `file_name`."""
        return json.dumps(self.names, ensure_ascii=False, indent=0) + "\n"
