"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from any of three layouts in the root.

- the Python version as torchvision unpacks it (``cifar-10-batches-py``, ``cifar-100-python``);
- the binary version (``cifar-10-batches-bin``, ``cifar-100-binary``): records of one or two label
  bytes and 3072 pixel bytes, planes red, green, blue, each row by row;
- a folder of images (``cifar10/train/<class>/...`` and so on).

The Python version is verified against its published md5 sums, the binary version against its sizes.
Mean and std are the usual published ones.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from supermask.data.dataset import Dataset, Images
from supermask.data.errors import DamagedDataError, missing
from supermask.data.folder import load_folder
from supermask.data.inert_pickle import read_inert
from supermask.data.registry import register_data

_SHAPE = (3, 32, 32)
_PIXEL_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class PythonLayout:
    """The Python version: its folder, (file, md5 sum) pairs, and the keys inside the files."""

    folder: str
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    meta: tuple[str, str]
    labels_key: str
    classes_key: str


@dataclass(frozen=True)
class BinaryLayout:
    """The binary version: its folder, (file, number of records) pairs, and the record's form."""

    folder: str
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    classes_file: str
    #: Label bytes before the pixels; the last of them is the label wanted here.
    label_bytes: int


@dataclass(frozen=True)
class Variant:
    """One of the two sets: where it may lie, and its published statistics."""

    name: str
    python: PythonLayout
    binary: BinaryLayout
    folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Variant(
    name="cifar10",
    python=PythonLayout(
        folder="cifar-10-batches-py",
        train=(
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ),
        test=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
        meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        labels_key="labels",
        classes_key="label_names",
    ),
    binary=BinaryLayout(
        folder="cifar-10-batches-bin",
        train=tuple((f"data_batch_{number}.bin", 10_000) for number in range(1, 6)),
        test=(("test_batch.bin", 10_000),),
        classes_file="batches.meta.txt",
        label_bytes=1,
    ),
    folder="cifar10",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = Variant(
    name="cifar100",
    python=PythonLayout(
        folder="cifar-100-python",
        train=(("train", "16019d7e3df5f24257cddd939b257f8d"),),
        test=(("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
        labels_key="fine_labels",
        classes_key="fine_label_names",
    ),
    binary=BinaryLayout(
        folder="cifar-100-binary",
        train=(("train.bin", 50_000),),
        test=(("test.bin", 10_000),),
        classes_file="fine_label_names.txt",
        label_bytes=2,
    ),
    folder="cifar100",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


@register_data("cifar10", cached=True)
def load_cifar10(root: Path, image_size: int | None, cache: str | os.PathLike[str] | None = None) -> Dataset:
    """Read CIFAR-10 from the first of its layouts that is in the root.

    Args:
        root: The folder that holds the data sets.
        image_size: Heeded for a folder of images.
        cache: Where decoded images of such a folder are kept.
    """
    return load_variant(CIFAR10, root, image_size, cache)


@register_data("cifar100", cached=True)
def load_cifar100(root: Path, image_size: int | None, cache: str | os.PathLike[str] | None = None) -> Dataset:
    """Read CIFAR-100 with its 100 fine classes from the first of its layouts that is in the root.

    Args:
        root: The folder that holds the data sets.
        image_size: Heeded for a folder of images.
        cache: Where decoded images of such a folder are kept.
    """
    return load_variant(CIFAR100, root, image_size, cache)


def load_variant(
    variant: Variant,
    root: Path,
    image_size: int | None,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read one of the two sets.

    Args:
        variant: Which.
        root: The folder that holds the data sets.
        image_size: Heeded for a folder of images.
        cache: Where decoded images of such a folder are kept.

    Raises:
        MissingDataError: None of the layouts is there.
        DamagedDataError: A file is not what it should be.
    """
    python, binary = root / variant.python.folder, root / variant.binary.folder
    images = root / variant.folder
    if python.is_dir():
        train, test, classes = _read_python(python, variant.python)
    elif binary.is_dir():
        train, test, classes = _read_binary(binary, variant.binary)
    elif images.is_dir():
        dataset = load_folder(images, image_size, name=variant.name, cache=cache)
        if dataset.in_channels != len(variant.mean):
            raise DamagedDataError(f"the images in {images} are all gray; CIFAR's are in colour")
        return replace(dataset, mean=variant.mean, std=variant.std, known_fingerprint=None)
    else:
        raise missing(variant.name, [python, binary, images], "unpack the archive from the CIFAR home page")
    return Dataset(variant.name, train, test, classes, variant.mean, variant.std)


def _read_python(folder: Path, layout: PythonLayout) -> tuple[Images, Images, tuple[str, ...]]:
    def split(files: Sequence[tuple[str, str]]) -> Images:
        batches = [_read_verified(folder / file, md5) for file, md5 in files]
        pixels = [np.asarray(batch["data"], dtype=np.uint8) for batch in batches]
        labels = [np.asarray(batch[layout.labels_key], dtype=np.int64) for batch in batches]
        return _to_images(np.concatenate(pixels), np.concatenate(labels))

    meta = _read_verified(folder / layout.meta[0], layout.meta[1])
    names = meta[layout.classes_key]
    if not isinstance(names, list):
        raise DamagedDataError(f"{folder / layout.meta[0]} lists no classes; {_fresh(folder)}")
    return split(layout.train), split(layout.test), tuple(map(str, names))


def _read_verified(path: Path, md5: str) -> dict[str, object]:
    content = _read_file(path)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DamagedDataError(
            f"{path} is damaged or another file: its md5 sum is {found} and should be {md5}; "
            f"{_fresh(path.parent)}"
        )
    try:
        return read_inert(content)
    except ValueError as error:
        raise DamagedDataError(f"{path}: {error}; {_fresh(path.parent)}") from error


def _read_binary(folder: Path, layout: BinaryLayout) -> tuple[Images, Images, tuple[str, ...]]:
    def split(files: Sequence[tuple[str, int]]) -> Images:
        length = layout.label_bytes + _PIXEL_BYTES
        parts = []
        for file, count in files:
            content = _read_file(folder / file)
            if len(content) != count * length:
                raise DamagedDataError(
                    f"{folder / file} has {len(content)} bytes and should have {count * length} "
                    f"({count} images); {_fresh(folder)}"
                )
            parts.append(np.frombuffer(content, dtype=np.uint8).reshape(count, length))
        records = np.concatenate(parts)
        labels = records[:, layout.label_bytes - 1].astype(np.int64)
        return _to_images(records[:, layout.label_bytes :], labels)

    text = _read_file(folder / layout.classes_file).decode("utf-8", errors="replace")
    return split(layout.train), split(layout.test), tuple(text.split())


def _to_images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
    planes = np.ascontiguousarray(pixels).reshape(-1, *_SHAPE)
    return Images(torch.from_numpy(planes), torch.from_numpy(labels))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedDataError(f"{path} cannot be read ({error}); {_fresh(path.parent)}") from error


def _fresh(folder: Path) -> str:
    return f"delete {folder} and unpack a fresh archive from the CIFAR home page"
