"""Random resized crops and colours against torchvision and Pillow, one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as tvf

from supermask.data import Images, Loader, iterate_eval
from supermask.data.boxes import RATIO, SCALE, draw_boxes, middle_box
from supermask.data.colour import STRENGTH, adjust_, draw_colours
from supermask.data.normalize import Normalizer
from supermask.data.resample import _resample_matrices, resample

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def smooth(count: int, size: int, channels: int = 3, seed: int = 0) -> Images:
    """Images with edges and gradients, and labels that number them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=generator) * 255
    pixels = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255)
    noisy = pixels + 20 * torch.rand(pixels.shape, generator=generator)
    return Images(noisy.clamp(0, 255).to(torch.uint8), torch.arange(count))


def random_boxes(count: int, side: int) -> torch.Tensor:
    rng = np.random.default_rng(side)
    height, width = rng.integers(1, side + 1, (2, count))
    height[:2], width[:2] = side, (side, 1)
    flip = rng.integers(0, 2, count)
    return torch.from_numpy(
        np.stack([rng.integers(0, side - height + 1), rng.integers(0, side - width + 1), height, width, flip])
    )


@pytest.mark.parametrize(("side", "size"), [(32, 32), (40, 32), (16, 48), (64, 28), (128, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_boxes_are_scaled_as_pillow_scales_them(side: int, size: int, layout: torch.memory_format) -> None:
    pixels, boxes = smooth(30, side).pixels.contiguous(memory_format=layout), random_boxes(30, side)
    rows = torch.arange(30).flip(0)
    result = resample(pixels, rows, boxes, size)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for row, (top, left, height, width, flip), scaled in zip(rows, boxes.T.tolist(), result, strict=True):
        image = Image.fromarray(pixels[row].permute(1, 2, 0).numpy())
        image = image.crop((left, top, left + width, top + height))
        expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.int64)
        expected = expected[:, ::-1] if flip else expected
        # Pillow has weights of 22 bits and PyTorch of 15: a half may round to the other side.
        assert np.abs(scaled.permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize(("side", "size"), [(32, 32), (40, 32), (16, 48), (64, 28), (200, 8)])
def test_matrices_give_the_bytes_of_the_kernel(side: int, size: int) -> None:
    boxes = random_boxes(60, side)
    pixels = torch.randint(0, 256, (60, 3, side, side), dtype=torch.uint8)
    pixels[:3] = 255
    kernel = resample(pixels, torch.arange(60), boxes, size)
    assert torch.equal(_resample_matrices(pixels, boxes, size), kernel)


@pytest.mark.parametrize("least", [SCALE[0], 0.35])
def test_boxes_have_torchvisions_distribution(least: float) -> None:
    side, count = 60, 20_000
    boxes = draw_boxes(seed=1, step=2, count=count, side=side, least=least)
    assert (
        np.all(boxes[:2] >= 0) and np.all(boxes[0] + boxes[2] <= side) and np.all(boxes[1] + boxes[3] <= side)
    )
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    drawn = transforms.RandomResizedCrop.get_params
    theirs = np.array([drawn(image, [least, 1.0], list(RATIO)) for _ in range(count)]).T
    for ours, other in zip(boxes[:4], theirs, strict=True):
        # Kolmogorov-Smirnov: two samples of one distribution exceed this at odds of 1/1000.
        grid = np.arange(side + 1)
        gap = np.searchsorted(np.sort(ours), grid, "right") - np.searchsorted(np.sort(other), grid, "right")
        assert np.abs(gap).max() / count < 1.95 * np.sqrt(2 / count)
    assert abs(boxes[4].mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    # The whole image stands in where no attempt fits, which a box of less than the least ratio tells apart.
    ratio = boxes[3] / boxes[2]
    assert ratio.min() > 0.7 and ratio.max() < 1.43


def test_a_box_depends_on_seed_and_step_and_its_own_image_alone() -> None:
    def boxes(seed: int, step: int) -> np.ndarray:
        return draw_boxes(seed=seed, step=step, count=50, side=64)

    assert np.array_equal(boxes(1, 2), boxes(1, 2))
    assert not np.array_equal(boxes(1, 2), boxes(1, 3)) and not np.array_equal(boxes(1, 2), boxes(2, 2))
    assert draw_boxes(seed=0, step=0, count=40, side=1).tolist()[:4] == [
        [0] * 40,
        [0] * 40,
        [1] * 40,
        [1] * 40,
    ]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("threads", "least"), [(1, SCALE[0]), (2, 0.35)])
def test_batches_equal_torchvisions_transforms(channels_last: bool, threads: int, least: float) -> None:
    images, size = smooth(24, 48), 32
    arguments = {"batch_size": 24, "seed": 5, "mean": MEAN, "std": STD, "augment": "resized-crop"}
    arguments["crop_scale"] = least
    loader = Loader(images, image_size=size, shuffle=False, channels_last=channels_last, **arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch, labels = loader.batch(3)
    finally:
        torch.set_num_threads(before)
    assert labels.tolist() == list(range(24))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.shape == (24, 3, size, size) and batch.is_contiguous(memory_format=layout)
    boxes = draw_boxes(seed=5, step=3, count=24, side=48, least=least)
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for pixels, (top, left, height, width, flip), ours in zip(images.pixels, boxes.T, batch, strict=True):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image = transforms.functional.resized_crop(image, top, left, height, width, [size, size])
        image = transforms.functional.hflip(image) if flip else image
        # One level of 255, over the smallest deviation.
        torch.testing.assert_close(ours, finish(image), atol=1.01 / 255 / min(STD), rtol=0)


@pytest.mark.parametrize("augment", ["resized-crop", "resized-crop-colour"])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_functions_of_seed_and_step_and_of_no_number_of_threads(
    augment: str, channels: int
) -> None:
    images = smooth(18, 100, channels)
    arguments = {"batch_size": 17, "mean": MEAN[:channels], "std": STD[:channels], "augment": augment}
    loader = Loader(images, seed=3, **arguments)
    batches = [loader.batch(step)[0] for step in range(5)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        other = Loader(images, seed=3, **arguments)
        for step in (4, 0, 2, 2):
            assert torch.equal(other.batch(step)[0], batches[step])
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(Loader(images, seed=4, **arguments).batch(0)[0], batches[0])
    assert len({batch.flatten()[0].item() for batch in batches}) == 5


def test_colours_are_torchvisions_in_our_order() -> None:
    factors = draw_colours(seed=1, step=1, count=50)
    assert factors.min() >= 1 - STRENGTH and factors.max() <= 1 + STRENGTH
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 0.6 and factors.std() > 0.15
    levels = smooth(50, 12).pixels.float()
    expected = levels / 255
    for name, row in zip(("brightness", "contrast", "saturation"), factors.tolist(), strict=True):
        adjust = getattr(tvf, f"adjust_{name}")
        expected = torch.stack([adjust(image, factor) for image, factor in zip(expected, row, strict=True)])
    for layout in (torch.contiguous_format, torch.channels_last):
        changed = levels.clone(memory_format=layout)
        adjust_(changed, torch.from_numpy(factors))
        torch.testing.assert_close(changed / 255, expected, atol=2e-5, rtol=0)


def test_colours_come_before_normalization() -> None:
    images = smooth(9, 16)
    arguments = {"batch_size": 9, "seed": 2, "mean": MEAN, "std": STD, "shuffle": False}
    plain = Loader(images, augment="resized-crop", **arguments).batch(1)[0]
    coloured = Loader(images, augment="resized-crop-colour", channels_last=True, **arguments).batch(1)[0]
    levels = plain * torch.tensor(STD).view(3, 1, 1) * 255 + torch.tensor(MEAN).view(3, 1, 1) * 255
    adjust_(levels, torch.from_numpy(draw_colours(seed=2, step=1, count=9)))
    expected = (levels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(coloured, expected, atol=1e-4, rtol=0)


def test_normalization_is_the_same_bits_in_every_layout_and_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = smooth(13, 10).pixels
    expected = pixels.float().sub_(torch.tensor(MEAN).mul(255).view(3, 1, 1))
    expected.mul_(torch.tensor([1 / (255 * s) for s in STD]).view(3, 1, 1))
    for chunk in (1, 700, 1 << 16):
        monkeypatch.setattr("supermask.data.normalize._CHUNK", chunk)
        for channels_last in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                normalize = Normalizer(MEAN, STD, "cpu", dtype, channels_last)
                assert torch.equal(normalize(pixels), expected.to(dtype))
                assert normalize(pixels[:0]).shape == (0, 3, 10, 10)


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
def test_smaller_batches_show_the_middle(augment: str) -> None:
    images = smooth(12, 20)
    rows, columns = middle_box(20, 17)
    assert (rows.start, rows.stop) == (1, 18)
    middle = Images(images.pixels[:, :, rows, columns].contiguous(), images.labels)
    arguments = {"batch_size": 5, "seed": 0, "mean": MEAN, "std": STD, "augment": augment}
    ours, expected = Loader(images, image_size=17, **arguments), Loader(middle, **arguments)
    assert torch.equal(ours.batch(4)[0], expected.batch(4)[0])
    pairs = zip(
        iterate_eval(images, 5, MEAN, STD, image_size=17, channels_last=True),
        iterate_eval(middle, 5, MEAN, STD),
        strict=True,
    )
    assert all(torch.equal(one[0], two[0]) for one, two in pairs)


def test_images_cannot_be_larger_than_what_is_stored() -> None:
    with pytest.raises(ValueError, match="from 1 to the 20 of the images, not 21"):
        Loader(smooth(3, 20), batch_size=1, seed=0, mean=MEAN, std=STD, image_size=21)
    with pytest.raises(ValueError, match="from 1 to the 20 of the images, not 0"):
        iterate_eval(smooth(3, 20), 1, MEAN, STD, image_size=0)


@pytest.mark.cuda
@pytest.mark.parametrize("augment", ["resized-crop", "resized-crop-colour"])
def test_resized_crops_are_the_same_on_the_gpu(augment: str) -> None:
    images = smooth(64, 48)
    arguments = {"batch_size": 32, "seed": 1, "mean": MEAN, "std": STD, "augment": augment, "image_size": 32}
    host, device = (Loader(images, device=device, **arguments) for device in ("cpu", "cuda"))
    for step in (0, 3):
        ours, expected = device.batch(step)[0].cpu(), host.batch(step)[0]
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("least", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(least: float) -> None:
    with pytest.raises(ValueError, match="crop_scale is a share of an image's area"):
        Loader(smooth(2, 8), batch_size=1, seed=0, mean=MEAN, std=STD, crop_scale=least)
