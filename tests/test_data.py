"""Data sets read from files that the tests write, and batches against plain NumPy loops."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits

from supermask.data import (
    DamagedDataError,
    Dataset,
    Images,
    Loader,
    MissingDataError,
    UnknownDataError,
    cifar,
    folder,
    iterate_eval,
    list_data,
    load_data,
    register_data,
    registry,
)
from supermask.data.augment import crop_padding
from supermask.data.dataset import channel_statistics, resize_pixels
from supermask.data.draws import Stream, permutation, raw_words
from supermask.data.inert_pickle import read_inert
from supermask.data.mnist import read_idx


def make_images(count: int, channels: int = 3, size: int = 8, classes: int = 5) -> Images:
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count) % classes)


def numbered(count: int) -> Images:
    """Images whose labels number them."""
    return Images(make_images(count, 1, 4).pixels, torch.arange(count))


def gray_loader(images: Images, **arguments: object) -> Loader:
    settings = {"batch_size": 7, "seed": 3, "mean": [0.4], "std": [0.2]} | arguments
    return Loader(images, **settings)


def make_dataset(images: Images) -> Dataset:
    channels = images.pixels.shape[1]
    return Dataset("made", images, images, tuple("abcde"), (0.5,) * channels, (0.2,) * channels)


def same(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Random numbers.


def test_random_words_are_those_of_philox_at_the_counter() -> None:
    # An independent way to the same place: jump a generator from the start of the counter.
    generator = np.random.Philox(key=np.array([9, 2], dtype=np.uint64))
    generator.advance(5 * 2**64)
    assert np.array_equal(raw_words(9, Stream.AUGMENTATION, 5, 10), generator.random_raw(10))


@given(seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**64 - 1), count=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_permutations_hold_every_index_once(seed: int, index: int, count: int) -> None:
    order = permutation(seed, Stream.EPOCH_ORDER, index, count)
    assert sorted(order.tolist()) == list(range(count))


def test_permutations_are_uniform() -> None:
    orders = [tuple(permutation(1, Stream.EPOCH_ORDER, epoch, 3)) for epoch in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    # 1000 expected of each; five standard deviations are 144.
    assert all(abs(count - 1000) < 144 for count in counts)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed is a whole number from 0"):
        gray_loader(numbered(9), seed=seed)
    with pytest.raises(ValueError, match="seed is a whole number from 0"):
        make_dataset(make_images(9)).split(1, seed=seed)


# The loader.


@pytest.mark.parametrize(("count", "batch_size"), [(20, 5), (23, 5), (4, 9), (1, 1)])
def test_each_epoch_visits_each_image_at_most_once(count: int, batch_size: int) -> None:
    loader = gray_loader(numbered(count), batch_size=batch_size)
    batch = min(batch_size, count)
    assert loader.steps_per_epoch == count // batch
    orders = []
    for epoch in range(3):
        first = epoch * loader.steps_per_epoch
        labels = [loader.batch(first + step)[1] for step in range(loader.steps_per_epoch)]
        assert all(len(part) == batch for part in labels)
        order = torch.cat(labels).tolist()
        assert len(set(order)) == len(order) == count // batch * batch
        orders.append(order)
    assert count == 1 or orders[0] != orders[1]


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip", "shift"])
def test_batches_are_functions_of_seed_and_step(augment: str) -> None:
    images = make_images(23, 1)
    forward = gray_loader(images, augment=augment)
    batches = [forward.batch(step) for step in range(10)]
    state = torch.get_rng_state()
    other = gray_loader(images, augment=augment)
    for step in (9, 0, 4, 4, 8, 1):
        assert same(other.batch(step), batches[step])
    assert torch.equal(torch.get_rng_state(), state)
    reseeded = gray_loader(images, augment=augment, seed=4)
    assert not same(reseeded.batch(0), batches[0])


def test_without_shuffling_images_come_in_order_every_epoch() -> None:
    loader = gray_loader(numbered(14), shuffle=False)
    assert torch.cat([loader.batch(step)[1] for step in (0, 1)]).tolist() == list(range(14))
    assert same(loader.batch(0), loader.batch(2))


def naive_augmentation(images: Images, seed: int, step: int, crop: bool, flip: bool) -> list[np.ndarray]:
    """One image at a time: frame with zeros, cut a window, mirror."""
    count, channels, size, _ = images.pixels.shape
    padding = size // 8
    draws = raw_words(seed, Stream.AUGMENTATION, step, 3 * count).tolist()
    results = []
    for index, image in enumerate(images.pixels.numpy()):
        framed = np.zeros((channels, size + 2 * padding, size + 2 * padding), dtype=np.uint8)
        framed[:, padding : padding + size, padding : padding + size] = image
        top = draws[index] % (2 * padding + 1) if crop else padding
        left = draws[count + index] % (2 * padding + 1) if crop else padding
        window = framed[:, top : top + size, left : left + size]
        if flip and draws[2 * count + index] >= 2**63:
            window = window[:, :, ::-1]
        results.append(window)
    return results


@pytest.mark.parametrize(
    ("augment", "crop", "flip"),
    [
        ("none", False, False),
        ("flip", False, True),
        ("shift", True, False),
        ("crop-flip", True, True),
    ],
)
def test_batches_equal_a_naive_loop_over_images(augment: str, crop: bool, flip: bool) -> None:
    images = make_images(40, 3, 16)
    mean, std = [0.2, 0.5, 0.7], [0.1, 0.3, 0.25]
    loader = Loader(images, batch_size=40, seed=5, mean=mean, std=std, augment=augment, shuffle=False)
    pixels, labels = loader.batch(3)
    # Unshuffled, the fourth epoch's only batch is all images in order.
    expected = np.stack(naive_augmentation(images, 5, 3, crop, flip)).astype(np.float64)
    expected = (expected / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert torch.equal(labels, images.labels)
    np.testing.assert_allclose(pixels.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_crops_reach_every_offset_and_flips_are_half() -> None:
    size, padding = 16, crop_padding(16)
    # One bright pixel in the middle shows where its window was cut.
    pixels = torch.zeros(4000, 1, size, size, dtype=torch.uint8)
    pixels[:, :, 8, 5] = 255
    images = Images(pixels, torch.zeros(4000, dtype=torch.int64))
    loader = gray_loader(images, batch_size=4000, augment="crop-flip", mean=[0.0], std=[1.0])
    bright = loader.batch(0)[0].squeeze(1).nonzero()
    assert len(bright) == 4000
    rows, columns = bright[:, 1] - 8, bright[:, 2]
    assert sorted(set(rows.tolist())) == list(range(-padding, padding + 1))
    flipped = columns >= 8
    assert sorted(set((columns[~flipped] - 5).tolist())) == list(range(-padding, padding + 1))
    assert sorted(set((10 - columns[flipped]).tolist())) == list(range(-padding, padding + 1))
    # Five standard deviations.
    assert abs(int(flipped.sum()) - 2000) < 160
    assert abs(int((rows == 0).sum()) - 800) < 127


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (28, 3), (8, 1), (4, 1), (128, 16)])
def test_crop_padding_follows_the_image_size(size: int, padding: int) -> None:
    assert crop_padding(size) == padding


def test_half_precision_is_rounded_once_from_single() -> None:
    images = make_images(8, 1)
    single, _ = gray_loader(images, batch_size=8).batch(0)
    half, _ = gray_loader(images, batch_size=8, dtype=torch.bfloat16).batch(0)
    assert torch.equal(half, single.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
        ({"augment": "mixup"}, "augment is one of none, flip, crop-flip, shift"),
        ({"mean": [0.1, 0.2]}, "need 1 numbers"),
        ({"std": [0.0]}, "std is above 0"),
    ],
)
def test_wrong_loader_arguments_are_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        gray_loader(numbered(9), **arguments)


def test_loader_needs_an_image_and_a_step_from_zero() -> None:
    with pytest.raises(ValueError, match="at least one"):
        gray_loader(numbered(0))
    with pytest.raises(ValueError, match="count from 0"):
        gray_loader(numbered(9)).batch(-1)


@pytest.mark.cuda
@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip", "shift"])
def test_batches_are_the_same_bits_on_the_gpu(augment: str) -> None:
    images = make_images(64, 1, 32)
    host, device = (
        gray_loader(images, batch_size=16, augment=augment, device=device) for device in ("cpu", "cuda")
    )
    for step in (0, 1, 5):
        pixels, labels = device.batch(step)
        assert pixels.is_cuda
        assert same((pixels.cpu(), labels.cpu()), host.batch(step))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 99])
def test_evaluation_covers_every_image_in_order(batch_size: int) -> None:
    images = make_images(10, 2)
    batches = list(iterate_eval(images, batch_size, [0.1, 0.2], [0.3, 0.4]))
    assert all(len(labels) <= batch_size for _, labels in batches)
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    pixels = torch.cat([pixels for pixels, _ in batches]).double()
    restored = pixels * torch.tensor([0.3, 0.4]).view(2, 1, 1) + torch.tensor([0.1, 0.2]).view(2, 1, 1)
    torch.testing.assert_close(restored * 255, images.pixels.double(), atol=1e-3, rtol=0)


def test_evaluation_of_nothing_is_empty_and_wrong_calls_fail_at_once() -> None:
    assert list(iterate_eval(numbered(0), 4, [0.1], [0.2])) == []
    with pytest.raises(ValueError, match="batch_size"):
        iterate_eval(numbered(3), 0, [0.1], [0.2])


# Images and data sets.


@pytest.mark.parametrize(("val", "held"), [(0, 0), (0.0, 0), (3, 3), (0.25, 5), (19, 19)])
def test_splits_are_disjoint_complete_and_repeatable(val: float, held: int) -> None:
    images = numbered(20)
    dataset = Dataset("made", images, images, tuple(map(str, range(20))), (0.5,), (0.2,))
    train, validation = dataset.split(val, seed=1)
    assert len(validation) == held
    together = torch.cat([train.labels, validation.labels])
    assert sorted(together.tolist()) == list(range(20))
    assert torch.equal(train.pixels, images.pixels[train.labels])
    torch.manual_seed(99)
    again = dataset.split(val, seed=1)[1].labels
    assert torch.equal(again, validation.labels)
    if held == 5:
        assert not torch.equal(dataset.split(val, seed=2)[1].labels, validation.labels)


@pytest.mark.parametrize("val", [-1, 20, 1.0, 0.99, -0.1, float("nan"), True])
def test_splits_that_leave_nothing_are_refused(val: float) -> None:
    dataset = make_dataset(make_images(20))
    with pytest.raises(ValueError, match="from 0 to 19 or a fraction"):
        dataset.split(val, seed=0)


def test_images_refuse_other_types_and_lengths() -> None:
    images = make_images(4)
    with pytest.raises(ValueError, match="contiguous uint8"):
        Images(images.pixels.float(), images.labels)
    with pytest.raises(ValueError, match="contiguous uint8"):
        Images(images.pixels.transpose(2, 3), images.labels)
    with pytest.raises(ValueError, match="one for each image"):
        Images(images.pixels, images.labels[:3])


def test_data_sets_refuse_parts_that_do_not_fit() -> None:
    images, dataset = make_images(6), make_dataset(make_images(6))
    wide = Images(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    for changes, reason in (
        ({"test": make_images(6, size=7)}, "pass image_size="),
        ({"train": wide, "test": wide}, "8 high and 9 wide"),
        ({"classes": ("a", "b")}, "labels from 0 to 4, and 2 classes"),
        ({"test": images.take(torch.tensor([], dtype=torch.int64))}, "test split .* no images"),
        ({"mean": (0.5,)}, "one number for each of 3 channels"),
        ({"std": (0.2, 0.0, 0.2)}, "std above 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            replace(dataset, **changes)


def test_channel_statistics_are_those_of_numpy() -> None:
    pixels = make_images(1500, 2, 5).pixels
    pixels[:, 1] = 51
    mean, std = channel_statistics(pixels)
    values = pixels.numpy() / 255.0
    assert mean == pytest.approx(values.mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx([values[:, 0].std(), 1.0], abs=1e-12)


def test_resizing_averages_areas_and_keeps_flat_images() -> None:
    pixels = torch.tensor([0, 100, 200, 103], dtype=torch.uint8).view(1, 1, 2, 2)
    # The average is 100.75.
    assert resize_pixels(pixels, 1).item() == 101
    flat = torch.full((1030, 1, 6, 6), 77, dtype=torch.uint8)
    assert torch.equal(resize_pixels(flat, 9), flat.new_full((1030, 1, 9, 9), 77))


def test_digits_are_scikit_learns_in_a_fixed_stratified_split() -> None:
    dataset = load_data("digits", root="/nowhere")
    images, labels = sklearn_digits(return_X_y=True)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert (dataset.in_channels, dataset.image_size, dataset.num_classes) == (1, 8, 10)
    whole = torch.cat([dataset.train.pixels, dataset.test.pixels]).flatten(1).tolist()
    expected = [[round(level * 255 / 16) for level in image] for image in images.tolist()]
    assert sorted(whole) == sorted(expected)
    by_image = dict(zip(map(tuple, expected), labels.tolist(), strict=True))
    for split in (dataset.train, dataset.test):
        found = [by_image[tuple(image)] for image in split.pixels.flatten(1).tolist()]
        assert split.labels.tolist() == found
    shares = np.bincount(labels) * 360 / 1797
    assert np.all(np.abs(dataset.test.labels.bincount().numpy() - shares) < 1)
    assert torch.equal(load_data("digits").test.pixels, dataset.test.pixels)
    assert load_data("digits", image_size=16).train.pixels.shape == (1437, 1, 16, 16)


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


def test_cifar_10_is_read_from_a_folder_with_published_statistics(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar10", size=(32, 32))
    dataset = load_data("cifar10", tmp_path)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)
    assert dataset.std == (0.2470, 0.2435, 0.2616)
    assert dataset.classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette", "fashion-mnist"])
def test_missing_sets_say_where_they_were_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingDataError, match=rf"'{name}'.*Looked for: {tmp_path}.*SUPERMASK_DATA"):
        load_data(name, tmp_path)


# Folders of images.


def write_image(path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path.name)))
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def write_folder(path: Path, test: str = "test", size: tuple[int, int] = (6, 6)) -> Path:
    for split, count in (("train", 3), (test, 2)):
        for name in ("dog", "cat"):
            for index in range(count):
                write_image(path / split / name / f"{index}{'x' * index}.png", size)
    return path


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folders_are_read_in_the_order_of_their_names(tmp_path: Path, test: str) -> None:
    path = write_folder(tmp_path / "pets", test)
    (path / "train" / "cat" / "notes.txt").write_text("passed over")
    (path / "train" / ".cache").mkdir()
    nested = write_image(path / "train" / "dog" / "more" / "9.PNG")
    dataset = load_data(str(path))
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dog"))
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(dataset.train.pixels[6].numpy(), nested.transpose(2, 0, 1))
    assert (dataset.mean, dataset.std) == channel_statistics(dataset.train.pixels)


def test_folders_are_found_inside_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "root" / "pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUPERMASK_DATA", str(tmp_path / "root"))
    assert len(load_data("pets").train) == 6
    monkeypatch.delenv("SUPERMASK_DATA")
    with pytest.raises(UnknownDataError, match="no data set 'pets'"):
        load_data("pets")
    (tmp_path / "root").rename(tmp_path / "data")
    assert len(load_data("pets").train) == 6


def test_images_are_cut_to_their_middle_and_scaled(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pets", size=(4, 4))
    pixels = write_image(path / "train" / "cat" / "0.png", (9, 4))
    Image.new("RGB", (40, 20), (10, 200, 30)).save(path / "train" / "cat" / "1x.png")
    dataset = load_data(str(path), image_size=4)
    assert np.array_equal(dataset.train.pixels[0].numpy(), pixels[:, 2:6].transpose(2, 0, 1))
    assert dataset.train.pixels[1].flatten(1).unique(dim=1).tolist() == [[10], [200], [30]]
    assert load_data(str(path), image_size=7).image_size == 7


def test_gray_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    path = tmp_path / "gray"
    for split in ("train", "test"):
        for name in ("a", "b"):
            gray = write_image(path / split / name / "0.png", mode="L")
    dataset = load_data(str(path))
    assert np.array_equal(dataset.test.pixels[1, 0].numpy(), gray)
    assert dataset.train.pixels.is_contiguous()
    write_image(path / "test" / "b" / "1.png")
    mixed = load_data(str(path))
    assert mixed.in_channels == 3
    assert np.array_equal(mixed.test.pixels[1].numpy(), np.stack([gray] * 3))


def test_palettes_with_transparency_are_read_without_warnings(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pets")
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(path / "train" / "cat" / "0.png", transparency=b"\x80\xff")
    assert load_data(str(path)).train.pixels[0, :, 0, 0].tolist() == [9, 8, 7]


def damage(path: Path, how: str) -> str:
    """Damage a folder of images and return what the error says, the thing's name included."""
    cat, image = path / "train" / "cat", path / "train" / "cat" / "1x.png"
    if how == "no test":
        (path / "test").rename(path / "exam")
        return f"{path} is not a folder of images: it lacks any of test/, val/, validation/"
    if how == "no train":
        (path / "train").rename(path / "lessons")
        return f"{path} is not a folder of images: it lacks train/"
    if how == "no classes":
        (path / "test").rename(path / "exam")
        (path / "test").mkdir()
        return f"{path / 'test'} has no class folders; put"
    if how == "other classes":
        (path / "test" / "cat").rename(path / "test" / "cow")
        return f"{path / 'test'} lacks cat; {path / 'train'} lacks cow. Give both"
    if how == "empty class":
        for file in cat.iterdir():
            file.unlink()
        return f"the class folder {cat} has no images"
    if how == "truncated":
        write_image(image, (60, 60))
        image.write_bytes(image.read_bytes()[:2000])
        return f"{image} cannot be read as an image"
    if how == "no image":
        (cat / "0.png").write_bytes(b"not a picture")
        return f"{cat / '0.png'} cannot be read as an image"
    if how == "another size":
        write_image(image, (6, 7))
        return f"{image} is 6x7 pixels and the images before it 6x6; pass image_size="
    Image.fromarray(np.zeros((6, 6), dtype=np.uint16)).save(image)
    return f"{image} has more than 8 bits"


@pytest.mark.parametrize(
    "how",
    [
        *("no test", "no train", "no classes", "other classes", "empty class"),
        *("truncated", "no image", "another size", "16 bits"),
    ],
)
def test_damaged_folders_are_refused_by_name(tmp_path: Path, how: str) -> None:
    path = write_folder(tmp_path / "pets")
    reason = damage(path, how)
    with pytest.raises((DamagedDataError, MissingDataError)) as caught:
        load_data(str(path))
    assert reason in str(caught.value)


def test_folders_too_large_for_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "pets")
    # Ten images of 6x6 pixels in three channels.
    monkeypatch.setattr(folder, "MAX_BYTES", 10 * 3 * 36 - 1)
    with pytest.raises(DamagedDataError, match=r"has 10 images, .* image_size=5 or less"):
        load_data(str(path))
    assert load_data(str(path), image_size=5).image_size == 5


def test_folders_that_are_not_there_and_unknown_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no folder of images 'pets/cats'.*Looked for"):
        load_data("pets/cats", tmp_path)
    with pytest.raises(UnknownDataError, match=r"no data set 'cifra10' \(close to it: cifar10"):
        load_data("cifra10", tmp_path)
    with pytest.raises(UnknownDataError, match="no data set ''"):
        load_data("", tmp_path)
    with pytest.raises(ValueError, match="image_size is a number of pixels"):
        load_data("digits", image_size=0)


def test_imagenette_is_the_one_folder_of_that_name(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "imagenette2-160", "val")
    for split in ("train", "val"):
        (path / split / "cat").rename(path / split / "n01440764")
    dataset = load_data("imagenette", tmp_path)
    assert (dataset.name, dataset.classes) == ("imagenette", ("dog", "tench"))
    (tmp_path / "imagenette128").mkdir()
    with pytest.raises(MissingDataError, match=r"several .* imagenette128, imagenette2-160"):
        load_data("imagenette", tmp_path)
    assert len(load_data("imagenette2-160", tmp_path).test) == 4


# The registry.


def test_registered_reader_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    seen = []

    @register_data("made")
    def read(root: Path, image_size: int | None) -> Dataset:
        seen.append((root, image_size))
        return make_dataset(make_images(6))

    assert load_data("made", "somewhere", image_size=5).train.pixels.shape == (6, 3, 5, 5)
    assert seen == [(Path("somewhere"), 5)]
    assert "made" in list_data()
    with pytest.raises(ValueError, match="already registered"):
        register_data("made")(read)
    with pytest.raises(ValueError, match="no path separator"):
        register_data("a/b")


# Real data, where there are any.


@pytest.mark.skipif("SUPERMASK_DATA" not in os.environ, reason="SUPERMASK_DATA is not set")
def test_real_mnist_has_its_published_size_and_statistics() -> None:
    try:
        dataset = load_data("mnist")
    except MissingDataError as error:
        pytest.skip(str(error))
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    mean, std = channel_statistics(dataset.train.pixels)
    assert mean == pytest.approx(dataset.mean, abs=1e-4)
    assert std == pytest.approx(dataset.std, abs=1e-4)
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
