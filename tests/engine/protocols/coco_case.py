"""Made-up scores of COCO's 5K, with its real names."""

import json
from pathlib import Path

import numpy as np

from engine.protocols.scored import Scored, read_scores

WIDTH = 8


def coco_file(
    data: Path, path: Path, width: int = WIDTH, embeddings: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Write embeddings or scores of COCO's 5K to `path`; return the numbers of pictures and captions.

    A caption lies near its picture, and some are alike.
    """
    captions = np.load(data / "coco_test_ids.npy")
    owners = json.loads((data / "original_caption_to_image.json").read_text())
    owner = np.array([owners[str(caption)][0] for caption in captions])
    images = owner[::5]
    random = np.random.default_rng(0)
    image = random.normal(size=(5000, width)).astype(np.float32)
    text = np.repeat(image, 5, axis=0) + random.normal(size=(25000, width)).astype(np.float32)
    text[100:20000:100] = text[:19900:100]
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    names = [f"COCO_val2014_{number:012}.jpg" for number in images]
    arrays = {"image": image, "text": text} if embeddings else {"scores": image @ text.T}
    np.savez(path, image_ids=names, caption_image_ids=np.repeat(names, 5), **arrays)
    return images, captions


def coco_scores(
    data: Path, folder: Path, embeddings: bool = False
) -> tuple[Scored, tuple[np.ndarray, np.ndarray]]:
    """Return such scores, and the numbers of pictures and captions."""
    numbers = coco_file(data, folder / "coco.npz", embeddings=embeddings)
    return read_scores(folder / "coco.npz"), numbers
