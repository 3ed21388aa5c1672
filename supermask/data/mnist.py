"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al., arXiv:1708.07747), from their IDX files.

An IDX file is a big-endian header (two zero bytes, the element type, the number of dimensions, one
32-bit length for each) and the elements. Files may be gzipped. Mean and std are the usual published
ones.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from supermask.data.dataset import Dataset, Images
from supermask.data.errors import DamagedDataError, missing
from supermask.data.registry import register_data

_UNSIGNED_BYTE = 8
_MAX_ELEMENTS = 2**30
_SIDE = 28
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@register_data("mnist")
def load_mnist(root: Path, image_size: int | None) -> Dataset:
    """Read MNIST from ``MNIST/raw`` or ``MNIST`` in the root.

    Args:
        root: The folder that holds the data sets.
        image_size: Not used.
    """
    train, test = _read_splits("mnist", root, "MNIST")
    return Dataset("mnist", train, test, tuple("0123456789"), (0.1307,), (0.3081,))


@register_data("fashion-mnist")
def load_fashion_mnist(root: Path, image_size: int | None) -> Dataset:
    """Read Fashion-MNIST from ``FashionMNIST/raw`` or ``FashionMNIST`` in the root.

    Args:
        root: The folder that holds the data sets.
        image_size: Not used.
    """
    train, test = _read_splits("fashion-mnist", root, "FashionMNIST")
    return Dataset("fashion-mnist", train, test, _FASHION_CLASSES, (0.2860,), (0.3530,))


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes.

    Args:
        path: The file, gzipped if it ends in ``.gz``.
        ndim: The number of dimensions it must have.

    Raises:
        DamagedDataError: Header and contents do not fit together or are of another kind.
    """
    remedy = "replace it with a fresh copy"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, _UNSIGNED_BYTE, ndim)) or len(header) < 4 + 4 * ndim:
                raise DamagedDataError(
                    f"{path} is not an IDX file of unsigned bytes with {ndim} dimensions (it starts "
                    f"with {header[:4].hex()}); {remedy}"
                )
            shape = struct.unpack(f">{ndim}I", header[4:])
            size = math.prod(shape)
            if size > _MAX_ELEMENTS:
                raise DamagedDataError(f"{path} claims {size} elements, too many; {remedy}")
            # One byte more than there should be shows a file that is too long.
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{path} cannot be read ({error}); {remedy}") from error
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise DamagedDataError(
            f"{path} should hold {size} bytes after its header and holds {found}; {remedy}"
        )
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


def _read_splits(name: str, root: Path, folder: str) -> tuple[Images, Images]:
    places = [root / folder / "raw", root / folder]
    for place in places:
        paths = [_existing(place / stem) for stem in _stems()]
        if all(paths):
            found = [path for path in paths if path is not None]
            return _read_images(found[0], found[1]), _read_images(found[2], found[3])
    raise missing(
        name,
        places,
        f"fetch the four files {', '.join(_stems())} (with or without .gz), as torchvision keeps them",
    )


def _stems() -> list[str]:
    return [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def _existing(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _read_images(images_path: Path, labels_path: Path) -> Images:
    pixels, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if pixels.shape != (len(labels), _SIDE, _SIDE):
        raise DamagedDataError(
            f"{images_path} holds images of shape {pixels.shape}, and {labels_path} has "
            f"{len(labels)} labels, so ({len(labels)}, {_SIDE}, {_SIDE}) was expected; replace both "
            "with fresh copies"
        )
    return Images(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
