"""MNIST's and CIFAR's files, written by the tests: sound, damaged and hostile."""

import gzip
import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from supermask.data import (
    DamagedDataError,
    MissingDataError,
    cifar,
    load_data,
)
from supermask.data.inert_pickle import read_inert
from supermask.data.mnist import read_idx

# MNIST's files.


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(path: Path, opener: Callable[..., object] = open, suffix: str = "") -> np.ndarray:
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for split, part in (("train", pixels[:8]), ("t10k", pixels[8:])):
        labels = np.arange(len(part), dtype=np.uint8)
        for kind, array in (("images-idx3", part), ("labels-idx1", labels)):
            with opener(path / f"{split}-{kind}-ubyte{suffix}", "wb") as file:
                file.write(idx_bytes(array))
    return pixels


@pytest.mark.parametrize(("opener", "suffix"), [(open, ""), (gzip.open, ".gz")])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "MNIST"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_mnist_files_are_read(
    tmp_path: Path, name: str, place: str, opener: Callable[..., object], suffix: str
) -> None:
    pixels = write_mnist(tmp_path / place, opener, suffix)
    dataset = load_data(name, tmp_path)
    whole = torch.cat([dataset.train.pixels, dataset.test.pixels]).squeeze(1)
    assert np.array_equal(whole.numpy(), pixels)
    assert dataset.train.labels.tolist() == list(range(8))
    assert dataset.test.labels.tolist() == list(range(4))
    assert dataset.name == name
    assert dataset.mean == ((0.1307,) if name == "mnist" else (0.2860,))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x08\x02" + bytes(12), "not an IDX file"),
        (b"\x00\x00\x08\x03" + bytes(11), "not an IDX file"),
        (struct.pack(">HBB3I", 0, 9, 3, 1, 2, 2) + bytes(4), "not an IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 1, 2, 2) + bytes(3), "4 bytes .* holds only 3"),
        (struct.pack(">HBB3I", 0, 8, 3, 1, 2, 2) + bytes(5), "4 bytes .* holds more"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 9), "too many"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DamagedDataError, match=f"{path} .*{reason}"):
        read_idx(path, 3)


@pytest.mark.parametrize("cut", [5, -6])
def test_damaged_gzip_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(99, dtype=np.uint8)))[:cut])
    with pytest.raises(DamagedDataError, match=r"labels\.gz cannot be read"):
        read_idx(path, 1)
    path.write_bytes(b"no gzip at all")
    with pytest.raises(DamagedDataError, match=r"labels\.gz cannot be read"):
        read_idx(path, 1)


def test_mnist_labels_must_fit_its_images(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    labels = raw / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(7, dtype=np.uint8)))
    with pytest.raises(DamagedDataError, match="has 7 labels"):
        load_data("mnist", tmp_path)
    labels.write_bytes(idx_bytes(np.full(8, 10, dtype=np.uint8)))
    with pytest.raises(DamagedDataError, match="labels from 10 to 10"):
        load_data("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(MissingDataError, match=f"Looked for: {raw}.*Nothing is downloaded"):
        load_data("mnist", tmp_path)


# CIFAR's files.


def cifar_arrays(count: int, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), np.arange(count) % classes


@pytest.fixture(params=["cifar10", "cifar100"])
def variant(request: pytest.FixtureRequest) -> cifar.Variant:
    """One of the two sets with a few images in each binary file."""
    whole: cifar.Variant = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[request.param]
    binary = whole.binary
    files = [tuple((file, 3) for file, _ in split) for split in (binary.train, binary.test)]
    return replace(whole, binary=replace(binary, train=files[0], test=files[1]))


def class_names(variant: cifar.Variant) -> list[str]:
    return [f"class_{index}" for index in range(100 if variant.name == "cifar100" else 10)]


def expected_images(variant: cifar.Variant, files: int, first_seed: int) -> np.ndarray:
    classes = len(class_names(variant))
    parts = [cifar_arrays(3, first_seed + index, classes)[0] for index in range(files)]
    return np.concatenate(parts).reshape(-1, 3, 32, 32)


def write_binary(root: Path, variant: cifar.Variant) -> Path:
    layout = variant.binary
    path = root / layout.folder
    path.mkdir()
    for seed, (file, count) in enumerate((*layout.train, *layout.test)):
        pixels, labels = cifar_arrays(count, seed, len(class_names(variant)))
        # CIFAR-100's coarse label comes first and is not the one wanted.
        columns = [np.full((count, 1), 19)] * (layout.label_bytes - 1) + [labels[:, None], pixels]
        (path / file).write_bytes(np.hstack(columns).astype(np.uint8).tobytes())
    (path / layout.classes_file).write_text("\n".join(class_names(variant)) + "\n\n")
    return path


def test_cifar_binary_version_is_read(tmp_path: Path, variant: cifar.Variant) -> None:
    write_binary(tmp_path, variant)
    dataset = cifar.load_variant(variant, tmp_path, None)
    files = len(variant.binary.train)
    assert np.array_equal(dataset.train.pixels.numpy(), expected_images(variant, files, 0))
    assert np.array_equal(dataset.test.pixels.numpy(), expected_images(variant, 1, files))
    assert dataset.train.labels.tolist() == [0, 1, 2] * files
    assert dataset.classes == tuple(class_names(variant))


def test_cifar_binary_version_with_wrong_sizes_is_refused(tmp_path: Path, variant: cifar.Variant) -> None:
    path = write_binary(tmp_path, variant)
    file = path / variant.binary.train[0][0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedDataError, match=rf"{file} has \d+ bytes and should have"):
        cifar.load_variant(variant, tmp_path, None)
    file.unlink()
    with pytest.raises(DamagedDataError, match=f"{file} cannot be read"):
        cifar.load_variant(variant, tmp_path, None)


def python2_pickle(pairs: dict[str, object]) -> bytes:
    """Write a dictionary as Python 2 and NumPy 1 wrote CIFAR's: protocol 2, bytes as text."""

    def encode(value: object) -> bytes:
        if isinstance(value, np.ndarray):
            state = b"(K\x01" + encode(value.shape[0]) + encode(value.shape[1]) + b"\x86"
            dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff"
            dtype += b"J\xff\xff\xff\xffK\x00tb"
            array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
            return array + state + dtype + b"\x89" + encode(value.tobytes()) + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(encode(item) for item in value) + b"e"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        text = value if isinstance(value, bytes) else str(value).encode()
        return b"T" + struct.pack("<I", len(text)) + text

    items = b"".join(encode(key) + encode(value) for key, value in pairs.items())
    return b"\x80\x02}(" + items + b"u."


def python3_pickle(pairs: dict[str, object]) -> bytes:
    return pickle.dumps(pairs, protocol=2)


def write_python(
    root: Path, variant: cifar.Variant, write: Callable[[dict[str, object]], bytes]
) -> cifar.Variant:
    """Write the Python version and return the variant with its checksums."""
    layout = variant.python
    path = root / layout.folder
    path.mkdir()

    def save(file: str, pairs: dict[str, object]) -> tuple[str, str]:
        content = write(pairs)
        (path / file).write_bytes(content)
        return file, hashlib.md5(content).hexdigest()

    sums = []
    for seed, (file, _) in enumerate((*layout.train, *layout.test)):
        pixels, labels = cifar_arrays(3, seed, len(class_names(variant)))
        batch = {"data": pixels, layout.labels_key: labels.tolist(), "batch_label": "part"}
        sums.append(save(file, batch))
    meta = save(layout.meta[0], {layout.classes_key: class_names(variant)})
    python = replace(layout, train=tuple(sums[:-1]), test=tuple(sums[-1:]), meta=meta)
    return replace(variant, python=python)


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
def test_cifar_python_version_is_read(
    tmp_path: Path, variant: cifar.Variant, write: Callable[[dict[str, object]], bytes]
) -> None:
    verified = write_python(tmp_path, variant, write)
    dataset = cifar.load_variant(verified, tmp_path, None)
    files = len(variant.python.train)
    assert np.array_equal(dataset.train.pixels.numpy(), expected_images(variant, files, 0))
    assert np.array_equal(dataset.test.pixels.numpy(), expected_images(variant, 1, files))
    assert dataset.train.labels.tolist() == [0, 1, 2] * files
    assert dataset.classes == tuple(class_names(variant))


def test_hand_written_python2_pickle_is_a_true_one() -> None:
    # Python itself reads it, so that the test above reads what Python 2 would have written.
    array = cifar_arrays(2, 0, 10)[0]
    content = python2_pickle({"data": array, "labels": [3, 4]})
    loaded = pickle.loads(content, encoding="latin1")
    assert np.array_equal(loaded["data"], array)
    assert loaded["labels"] == [3, 4]


def test_cifar_python_version_with_another_checksum_is_not_even_opened(
    tmp_path: Path, variant: cifar.Variant
) -> None:
    write_python(tmp_path, variant, python2_pickle)
    file = tmp_path / variant.python.folder / variant.python.meta[0]
    with pytest.raises(DamagedDataError, match=f"{file} is damaged.*md5 sum is .* should be"):
        cifar.load_variant(variant, tmp_path, None)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_pickles_that_call_anything_else_are_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"data": Hostile(tmp_path / "made")})
    with pytest.raises(ValueError, match="mkdir, which no CIFAR file does"):
        read_inert(content)
    assert not (tmp_path / "made").exists()
    pickle.loads(content)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("order", ["C", "F"])
def test_pickled_arrays_are_read_in_either_order(order: str) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3).copy(order=order)
    assert np.array_equal(read_inert(pickle.dumps({"data": array}, 2))["data"], array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a pickled CIFAR batch"),
        (b"\x80\x02}(U", "not a pickled CIFAR batch"),
        (pickle.dumps([1, 2]), "it holds a list"),
        (pickle.dumps({"data": np.arange(3)}, protocol=2), "not one of unsigned bytes"),
        (b"\x80\x02}U\x04datacnumpy\nndarray\n)Rs.", "its array has no contents"),
    ],
)
def test_pickles_of_another_form_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_inert(content)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette", "fashion-mnist"])
def test_missing_sets_say_where_they_were_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingDataError, match=rf"'{name}'.*Looked for: {tmp_path}.*SUPERMASK_DATA"):
        load_data(name, tmp_path)
