"""Data sets, splits and batches against plain NumPy loops."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits as sklearn_digits

from supermask.data import (
    Dataset,
    Images,
    Loader,
    MissingDataError,
    iterate_eval,
    list_data,
    load_data,
    register_data,
    registry,
)
from supermask.data.augment import crop_padding
from supermask.data.dataset import channel_statistics, resize_pixels
from supermask.data.draws import Stream, permutation, raw_words


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


def gray_like(images: Images, **options: object) -> Loader:
    """A loader whose batches are the bytes over 255."""
    channels = images.shape[0]
    return Loader(images, mean=[0.0] * channels, std=[1.0] * channels, **options)


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


def test_translations_mirror_the_border_and_flips_alternate() -> None:
    images = make_images(30, 3, 32)
    loader = gray_like(images, batch_size=30, seed=4, augment="translate-flip", shuffle=False)
    first = [word >= 2**63 for word in raw_words(4, Stream.ALTERNATING_FLIP, 0, 30).tolist()]
    assert 0 < sum(first) < 30
    for epoch in range(3):
        got = loader.batch(epoch)[0]  # one batch is an epoch
        draws = raw_words(4, Stream.AUGMENTATION, epoch, 90).tolist()
        for index, image in enumerate(images.pixels.numpy()):
            framed = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
            top, left = draws[index] % 5, draws[30 + index] % 5
            window = framed[:, top : top + 32, left : left + 32]
            if first[index] ^ (epoch % 2 == 1):
                window = window[:, :, ::-1]
            np.testing.assert_allclose(got[index].numpy(), window / 255, rtol=1e-5, atol=1e-6)


def test_an_image_is_mirrored_in_every_second_epoch_whatever_the_order() -> None:
    pixels = torch.zeros(20, 1, 32, 32, dtype=torch.uint8)
    pixels[..., :16] = 200
    images = Images(pixels, torch.arange(20))
    loader = gray_like(images, batch_size=5, seed=1, augment="translate-flip")
    seen: list[dict[int, bool]] = []
    for epoch in range(4):
        batches = [loader.batch(step) for step in range(4 * epoch, 4 * epoch + 4)]
        seen.append(
            {int(n): bool(x[0, 5, 0] == 0) for xs, ns in batches for x, n in zip(xs, ns, strict=True)}
        )
    assert seen[0] == seen[2] and seen[1] == seen[3]
    assert all(seen[0][number] != seen[1][number] for number in range(20))
    some = loader.batch(6, slice(1, 3))  # rows of a rank
    assert torch.equal(some[0], loader.batch(6)[0][1:3])


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
        ({"batch_size": 0}, "batch_size is a whole number from 1 on, not 0"),
        ({"augment": "mixup"}, "augment is one of none, flip, crop-flip, translate-flip, shift"),
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
