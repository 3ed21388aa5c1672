"""Data sets and their validation split, loaded once per process."""

from functools import lru_cache

from supermask.data import Dataset, Images, Selection, load_data
from supermask.data.folder import EVERYTHING

SPLIT_SEED = 0
"""The validation split is the same for all seeds: seeds vary the run, not the data."""


@lru_cache(maxsize=2)
def dataset(
    name: str,
    root: str | None,
    image_size: int | None,
    selection: Selection = EVERYTHING,
    cache: str | None = None,
) -> Dataset:
    """A data set by name or folder; see `load_data`."""
    return load_data(name, root, image_size, selection=selection, cache=cache)


_split: dict[tuple[str, float], tuple[Images, Images]] = {}


def split(data: Dataset, val_fraction: float) -> tuple[Images, Images]:
    """Images to train on and images to validate on; the last answer is kept, because it copies images."""
    key = (data.fingerprint, val_fraction)
    if key not in _split:
        parts = data.split(val_fraction, seed=SPLIT_SEED)
        _split.clear()
        _split[key] = parts
    return _split[key]
