"""Decoded images in one file that is mapped into memory: what is in it, and whether it is sound.

A safetensors file with one tensor ``pixels``, uint8 (N, H, W, C), the training split first and in each split
class after class. Its metadata entry ``supermask`` is JSON: format, source, classes, counts, statistics and
the fingerprint of the content; the entry ``sha256`` is the digest of that JSON. The header is padded with
spaces to a whole number of pages, as safetensors allows, so that it can be written last.
"""

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from supermask.io import open_safetensors

FORMAT = "supermask/images/1"
_PAGE = 4096
#: Names of images left out that the header keeps; their number is exact.
_MOST_NAMES = 100
_LONGEST_NAME = 512
CACHE_VARIABLE = "SUPERMASK_CACHE"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a cache says about itself.

    Attributes:
        source: Hash of the paths, sizes and times of change of the files that it was made from.
        shape: Of the pixels: images, height, width, channels.
        classes: Names of the classes, by label.
        counts: Images of each class in the training split and in the test split.
        mean: Mean of each channel of the training split, of pixel values in [0, 1].
        std: Standard deviation of each channel, likewise.
        fingerprint: Of the whole data set, see `Dataset.fingerprint`.
        left_out: Corrupt images that were left out.
        left_out_names: The first of them, below the folder of images.
    """

    source: str
    shape: tuple[int, int, int, int]
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    left_out: int
    left_out_names: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of the pixels."""
        count, height, width, channels = self.shape
        return count * height * width * channels


@dataclass(frozen=True, eq=False)
class Cache:
    """An open cache: its header, and its pixels uint8 (N, H, W, C) in mapped memory."""

    header: Header
    pixels: Tensor


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of caches: as given, else $SUPERMASK_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
    if given or os.environ.get(CACHE_VARIABLE):
        return Path(given or os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "supermask"


def header_bytes(classes: int, names: int = 0) -> int:
    """Bytes set apart for a header, a whole number of pages.

    Args:
        classes: Classes of the data set.
        names: Characters of their names together.
    """
    # Numbers of two counts for each class, quotes and commas; every name may be escaped sixfold.
    room = 2 * _PAGE + 64 * classes + 14 * names + 14 * _LONGEST_NAME * _MOST_NAMES
    return -(-room // _PAGE) * _PAGE


def pack_header(header: Header, room: int) -> bytes:
    """The first `room` bytes of a cache.

    Raises:
        ValueError: They do not suffice.
    """
    names = [name for name in header.left_out_names if len(name) <= _LONGEST_NAME][:_MOST_NAMES]
    about = json.dumps({"format": FORMAT, **asdict(header), "left_out_names": names})
    metadata = {"supermask": about, "sha256": hashlib.sha256(about.encode()).hexdigest()}
    pixels = {"dtype": "U8", "shape": header.shape, "data_offsets": [0, header.bytes]}
    text = json.dumps({"__metadata__": metadata, "pixels": pixels}).encode()
    if len(text) > room - 8:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {room - 8}")
    return struct.pack("<Q", room - 8) + text.ljust(room - 8)


def open_cache(path: Path, source: str | None = None) -> Cache | None:
    """Map a cache into memory.

    Args:
        path: The file.
        source: Hash of the files that it must have been made from; None for any.

    Returns:
        None if there is no such file, or it is truncated, damaged, of another format or another source: it
        has to be made again.
    """
    if not path.is_file():
        return None
    try:
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            pixels = file.get_tensor("pixels")
        about = metadata["supermask"]
        if hashlib.sha256(about.encode()).hexdigest() != metadata["sha256"]:
            return None
        header = _header(json.loads(about))
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError):
        return None
    sound = pixels.dtype == torch.uint8 and tuple(pixels.shape) == header.shape
    return Cache(header, pixels) if sound and source in (None, header.source) else None


def _header(about: dict[str, Any]) -> Header:
    """Raises KeyError, TypeError or ValueError for anything but a header of this format."""
    if about.pop("format") != FORMAT:
        raise ValueError("another format")
    for name in ("shape", "classes", "mean", "std", "left_out_names"):
        about[name] = tuple(about[name])
    about["counts"] = tuple(map(tuple, about["counts"]))
    header = Header(**about)
    if sum(map(sum, header.counts)) != header.shape[0]:
        raise ValueError("other counts than images")
    return header
