"""Folders of images: sound, uneven, empty and damaged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supermask.data import (
    DamagedDataError,
    MissingDataError,
    UnknownDataError,
    load_data,
)
from supermask.data.dataset import channel_statistics

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


def test_folders_that_are_not_there_and_unknown_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no folder of images 'pets/cats'.*Looked for"):
        load_data("pets/cats", tmp_path)
    with pytest.raises(UnknownDataError, match=r"no data set 'cifra10', .*; did you mean cifar10"):
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


def test_cifar_10_is_read_from_a_folder_with_published_statistics(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar10", size=(32, 32))
    dataset = load_data("cifar10", tmp_path)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)
    assert dataset.std == (0.2470, 0.2435, 0.2616)
    assert dataset.classes == ("cat", "dog")
