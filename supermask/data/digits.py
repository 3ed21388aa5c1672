"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn; no file is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from supermask import extras
from supermask.data.dataset import Dataset, Images, channel_statistics
from supermask.data.draws import Stream, permutation
from supermask.data.registry import register_data

_TEST_COUNT = 360
_GRAY_LEVELS = 16


@register_data("digits")
def load_digits(root: Path, image_size: int | None) -> Dataset:
    """Return the digits, 1,437 to train on and 360 to test on, always the same ones.

    The set has no split of its own. This one is drawn once and for all, each class in proportion.
    The 17 gray levels are spread over 0 to 255.

    Args:
        root: Not used.
        image_size: Not used.
    """
    datasets: Any = extras.load("sklearn.datasets", "data")
    images, labels = datasets.load_digits(return_X_y=True)
    levels = np.rint(images.reshape(-1, 1, 8, 8) * (255 / _GRAY_LEVELS))
    pixels = torch.from_numpy(levels.astype(np.uint8))
    whole = Images(pixels, torch.from_numpy(labels.astype(np.int64)))
    held = _stratified(labels, _TEST_COUNT)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    train, test = whole.take(torch.from_numpy(kept)), whole.take(torch.from_numpy(held))
    mean, std = channel_statistics(train.pixels)
    return Dataset("digits", train, test, tuple("0123456789"), mean, std)


def _stratified(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ``count`` ascending indices with each class in proportion (largest remainders)."""
    sizes = np.bincount(labels)
    # In integers: quotient and remainder of size * count / total.
    quotas, remainders = np.divmod(sizes * count, len(labels))
    for label in np.argsort(-remainders, kind="stable")[: count - quotas.sum()]:
        quotas[label] += 1
    order = permutation(0, Stream.DIGITS_SPLIT, 0, len(labels))
    chosen = [order[labels[order] == label][:quota] for label, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))
