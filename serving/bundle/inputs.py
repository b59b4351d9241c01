"""What a bundle's graphs read of features, which are checked."""

import numpy as np

from config.errors import UserError


def checked_features(
    features: np.ndarray, counts: np.ndarray | None, image: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float32 [N,F] or [N,R,F], and the number of regions of each image, int64 [N].

    A model of regions takes vectors [N,F] as one region each. Raises UserError for another shape or width,
    for counts that are not 1 to R, and for NaN and infinity outside the padding.
    """
    features = np.asarray(features)
    width = image["width"]
    if features.ndim not in (2, 3) or features.shape[-1] != width or features.dtype.kind not in "fiu":
        raise UserError(
            f"features: expected numbers of shape [images, {width}] or [images, regions, {width}], got "
            f"{features.dtype} of shape {list(features.shape)}: extract them as for the training of the model"
        )
    with np.errstate(over="ignore"):  # what is beyond float32's range becomes infinite and is refused below
        features = features.astype(np.float32)
    if image["reads"] == "regions" and features.ndim == 2:
        features = features[:, None]
    most = features.shape[1] if features.ndim == 3 else 1
    counts = np.full(len(features), most) if counts is None else np.asarray(counts)
    if counts.shape != (len(features),) or not ((counts >= 1) & (counts <= most)).all():
        raise UserError(
            f"counts: expected {len(features)} numbers of regions from 1 to {most}, got {counts.tolist()[:5]}"
        )
    finite = np.isfinite(features).reshape(len(features), most, -1).all(axis=2)
    broken = np.flatnonzero((~finite & (np.arange(most) < counts[:, None])).any(axis=1))
    if len(broken):
        raise UserError(f"features: image {broken[0] + 1} holds NaN or infinity, expected finite numbers")
    return features, counts.astype(np.int64)


def mean_of_regions(regions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean [N,F] of the first `counts[n]` regions of each image of `regions` [N,R,F]."""
    real = np.arange(regions.shape[1]) < counts[:, None]
    return np.where(real[..., None], regions, 0).sum(axis=1, dtype=np.float32) / counts[:, None].astype(
        np.float32
    )
