"""Folders of images as people have them: hidden files, links, gaps, ImageNet as published, odd images."""

import io
import os
import pickle
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from supermask.data import DamagedDataError, DataError, MissingDataError, Selection, load_data
from supermask.data.decode import decode
from supermask.data.selection import read_classes


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERMASK_CACHE", str(tmp_path / "caches"))


def write_image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (level, level, level)).save(path, "PNG")


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 2) -> Path:
    for split in splits:
        for name in ("cat", "dog"):
            for index in range(count):
                write_image(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets")


# Hidden files, links, and what is not there.


def test_what_is_hidden_is_passed_over_at_every_depth(folder: Path) -> None:
    write_image(folder / "train/cat/.ipynb_checkpoints/0-checkpoint.png")
    write_image(folder / "train/cat/more/.thumbs/deep/0.png")
    write_image(folder / "train/cat/more/0.png")
    (folder / "train/cat/._0.png").write_bytes(b"\0\5\x16\7")
    (folder / "train/.DS_Store").write_bytes(b"")
    write_image(folder / "train/.trash/0.png")
    assert len(load_data(str(folder)).train) == 5


def test_linked_folders_and_files_are_followed(folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere/a.png")
    (folder / "train/cat/more").symlink_to(tmp_path / "elsewhere")
    (folder / "train/dog/2.png").symlink_to(tmp_path / "elsewhere/a.png")
    for split in ("train", "val"):
        (folder / split / "ant").symlink_to(tmp_path / "elsewhere")
    data = load_data(str(folder))
    assert data.classes == ("ant", "cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_a_link_back_is_named(folder: Path) -> None:
    (folder / "train/cat/deep").mkdir()
    (folder / "train/cat/deep/back").symlink_to(folder / "train/cat")
    with pytest.raises(DamagedDataError, match="cat/deep/back is a link back to a folder that it lies in"):
        load_data(str(folder))


def test_missing_images_are_counted_named_and_left_out(folder: Path) -> None:
    (folder / "train/cat/2.png").symlink_to("annex/2")
    (folder / "train/cat/3.png").symlink_to("3.png")
    (folder / "train/dog/more").symlink_to("nowhere")
    os.mkfifo(folder / "val/dog/pipe.png")
    (folder / "val/dog/9.png").write_bytes(b"nothing")
    (folder / "val/dog/notes.txt").symlink_to("nowhere")
    with pytest.raises(DamagedDataError) as caught:
        load_data(str(folder))
    text = str(caught.value)
    assert "4 of 13 images are missing and 1 of 13 images are corrupt" in text
    assert "cat/2.png is a link to annex/2 (No such file or directory)" in text
    assert "cat/3.png is a link to 3.png (Too many levels" in text
    assert "dog/more is a link to nowhere" in text and "notes" not in text
    assert "dog/pipe.png is a pipe, a socket or a device" in text
    data = load_data(str(folder), selection=Selection(allow_corrupt=True))
    assert (len(data.train), len(data.test), data.left_out) == (4, 4, 5)
    (folder / "annex").mkdir()
    (folder / "train/cat/annex").mkdir()
    write_image(folder / "train/cat/annex/2")
    assert load_data(str(folder), selection=Selection(allow_corrupt=True)).left_out == 4


@pytest.mark.parametrize("what", ["train", "val", "train/cat"])
def test_folders_behind_dead_links_are_named(folder: Path, what: str) -> None:
    (folder / what).rename(folder / "away")
    (folder / what).symlink_to("gone")
    with pytest.raises(DamagedDataError, match=rf"{what} is a link to gone \(No such file"):
        load_data(str(folder))


def test_a_class_behind_a_dead_link_can_be_left_out(folder: Path) -> None:
    (folder / "train/ant").symlink_to("gone")
    with pytest.raises(DamagedDataError, match=r"different classes: .*val lacks ant"):
        load_data(str(folder))
    assert len(load_data(str(folder), selection=Selection(classes=("cat", "dog"))).train) == 4


# Names.


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def test_names_that_are_no_utf8_name_the_folder(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / split / "dog").rename(named(folder / split, b"d\xf6g"))
    with pytest.raises(DamagedDataError, match=r"the name of the folder .*train/d\\xf6g is not valid UTF-8"):
        load_data(str(folder))
    whole = write_folder(named(folder, b"p\xebts"))
    with pytest.raises(DamagedDataError, match=r"pets/p\\xebts is not valid UTF-8"):
        load_data(str(whole))


def test_names_of_macos_are_the_same_names(folder: Path) -> None:
    together, apart = unicodedata.normalize("NFC", "chäté"), unicodedata.normalize("NFD", "chäté")
    (folder / "train/cat").rename(folder / "train" / apart)
    (folder / "val/cat").rename(folder / "val" / together)
    assert load_data(str(folder)).classes == (together, "dog")
    chosen = Selection(classes=read_classes([apart]))
    assert load_data(str(folder), selection=chosen).classes == (together,)
    write_image(folder / "train" / together / "0.png")
    with pytest.raises(DamagedDataError, match="has two folders whose names look the same"):
        load_data(str(folder))


def test_names_of_files_are_bytes(folder: Path) -> None:
    write_image(named(folder, b"train/dog/\xff.png"), 255)
    assert load_data(str(folder)).train.pixels[4].unique().tolist() == [255]
    (folder / "train/cat/0.png").write_bytes(b"")
    (folder / "train/cat/0.png").rename(named(folder, b"train/cat/\xff.png"))
    with pytest.raises(DamagedDataError, match=r"cat/\\xff.png cannot be read"):
        load_data(str(folder))
    load_data(str(folder), selection=Selection(allow_corrupt=True))
    assert load_data(str(folder), selection=Selection(allow_corrupt=True)).left_out == 1


# Which split is the test split.


@pytest.mark.parametrize("what", ["flat", "empty", "unknown"])
def test_an_unlabelled_test_split_does_not_hide_a_sound_one(folder: Path, what: str) -> None:
    if what == "empty":
        (folder / "test").mkdir()
    else:
        write_image(folder / "test" / ("0.png" if what == "flat" else "unknown/0.png"))
    assert len(load_data(str(folder)).test) == 4


def test_of_two_sound_splits_the_first_is_taken(folder: Path) -> None:
    write_folder(folder, ("test",), count=3)
    assert len(load_data(str(folder)).test) == 6
    write_image(folder / "test/cow/0.png")
    with pytest.raises(DamagedDataError, match="train lacks cow"):
        load_data(str(folder))


def test_images_without_labels_are_refused(folder: Path) -> None:
    (folder / "val").rename(folder / "away")
    write_image(folder / "test/0.png")
    with pytest.raises(DamagedDataError, match=r"test has no class folders, and 1 images of which.*LOC_val"):
        load_data(str(folder))


# ImageNet as published.

CODES = ("n01440764", "n02102040")
LABELS = (1, 0, 1, 1)


def write_imagenet(root: Path) -> Path:
    for level, code in enumerate(CODES):
        write_image(root / "train" / code / f"{code}_1.JPEG", level)
    for number, label in enumerate(LABELS, 1):
        write_image(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG", 10 * number + label)
    return root


def write_kaggle(root: Path) -> Path:
    data = write_imagenet(root / "ILSVRC/Data/CLS-LOC")
    write_image(data / "test/ILSVRC2012_test_00000001.JPEG")
    rows = [
        f"ILSVRC2012_val_{number:08},{CODES[label]} 1 2 3 4 {CODES[label]} 5 6 7 8 "
        for number, label in enumerate(LABELS, 1)
    ]
    table = root / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\n" + "".join(f"{row}\n" for row in rows[::-1]))
    return table


def write_kit(root: Path, synsets: str = "meta.mat") -> Path:
    kit = write_imagenet(root / "imagenet") / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{7 + k}\n" for k in LABELS))
    numbers = [(8, CODES[1]), (7, CODES[0]), (1001, "n00001740")]
    if synsets == "meta.mat":
        io = pytest.importorskip("scipy.io")
        table = np.empty((3, 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
        for row, (number, code) in enumerate(numbers):
            table[row, 0] = (float(number), code, "a word")
        io.savemat(kit / synsets, {"synsets": table})
    else:
        (kit / synsets).write_text("".join(f"{code} {number} a_word\n" for number, code in numbers))
    return kit


@pytest.mark.parametrize("source", ["kaggle", "meta.mat", "map_clsloc.txt"])
def test_imagenet_is_read_as_it_is_published(tmp_path: Path, source: str) -> None:
    if source == "kaggle":
        write_kaggle(tmp_path)
    else:
        write_kit(tmp_path, source)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    data = load_data("imagenet", tmp_path)
    assert data.classes == CODES
    assert data.test.labels.tolist() == [0, 1, 1, 1]
    assert data.test.pixels[:, 0, 0, 0].tolist() == [20, 11, 31, 41]
    part = load_data("imagenet", tmp_path, selection=Selection(classes=CODES[1:]))
    assert part.test.pixels[:, 0, 0, 0].tolist() == [11, 31, 41]
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


def test_a_validation_image_without_a_label_or_a_label_without_an_image_is_named(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    val = tmp_path / "ILSVRC/Data/CLS-LOC/val"
    (val / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(DamagedDataError, match=r"1 of 6 images are missing: .*_00000003.JPEG is not there"):
        load_data("imagenet", tmp_path)
    assert len(load_data("imagenet", tmp_path, selection=Selection(allow_corrupt=True)).test) == 3
    write_image(val / "strange.JPEG")
    with pytest.raises(DamagedDataError, match=r"published labels do not name: strange\. Remove"):
        load_data("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("LOC_val_solution.csv", b"ImageId\n", DamagedDataError, "line 1, is not an image and its class"),
        ("LOC_val_solution.csv", b"a,\n", DamagedDataError, "line 1, is not an image and its class"),
        ("LOC_val_solution.csv", b"\xff\xfe", DamagedDataError, "is not text"),
        ("ground_truth", b"7\n9\n7\n7\n", DamagedDataError, "line 2: '9' is not the number of a class"),
        ("ground_truth", b"\n", DamagedDataError, "line 1: '' is not the number of a class"),
        ("meta.mat", None, MissingDataError, "neither meta.mat nor map_clsloc.txt"),
        ("meta.mat", b"nothing", DamagedDataError, "does not list the classes"),
        ("meta.mat", b"\0" * (1 << 25), DamagedDataError, "larger than any file of that name"),
    ],
)
def test_damaged_labels_are_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[DataError], message: str
) -> None:
    pytest.importorskip("scipy.io")
    kit = write_kit(tmp_path)
    path = kit / ("ILSVRC2012_validation_ground_truth.txt" if name == "ground_truth" else name)
    if name.endswith("csv"):
        path = tmp_path / "imagenet" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_data("imagenet", tmp_path)


class _Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("trapped",)


def test_reading_a_matlab_file_executes_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy.io")
    monkeypatch.chdir(tmp_path)
    meta = write_kit(tmp_path) / "meta.mat"
    saved = io.BytesIO()
    np.save(saved, np.array([_Trap()], dtype=object), allow_pickle=True)
    for content in (pickle.dumps(_Trap()), saved.getvalue()):
        meta.write_bytes(content)
        with pytest.raises(DamagedDataError, match="does not list the classes"):
            load_data("imagenet", tmp_path)
    assert not Path("trapped").exists()


# Odd images.


def jpeg(pixels: NDArray[np.uint8], exif: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def declared(data: bytes, side: int, junk: bytes = b"") -> bytes:
    """The same JPEG with another size in its header, and something in front of that."""
    at = data.index(b"\xff\xc0")
    return data[:at] + junk + data[at : at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


@pytest.mark.parametrize(
    "junk", [b"", b"\0\0\0", b"\xff\xff\xff", b"\xff\x01", b"\xff\xfe\0\x06\xff\xc0\0\0"]
)
def test_a_jpeg_that_declares_too_many_pixels_is_refused_unread(folder: Path, junk: bytes) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    path = folder / "train/cat/bomb.jpg"
    path.write_bytes(declared(jpeg(pixels), 16, junk))
    assert decode(path, size=(16, 16), fit=False)[0].shape == (16, 16, 3)
    path.write_bytes(declared(jpeg(pixels), 20_000, junk))
    why = (
        r"400000000 pixels" if junk != b"\xff\x01" else "cannot identify"
    )  # Pillow does not know that marker
    with pytest.raises(DamagedDataError, match=rf"bomb\.jpg cannot be read as an image \(.*{why}"):
        load_data(str(folder), image_size=4)


#: EXIF's orientations: the stored image, brought to where its first row and first column belong.
SHOWN: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_images_stand_as_exif_says(tmp_path: Path, format: str, orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, turned = tmp_path / f"plain.{format.lower()}", tmp_path / f"turned.{format.lower()}"
    options = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(stored).save(plain, format, **options)
    Image.fromarray(stored).save(turned, format, exif=exif, **options)
    without, _ = decode(plain, size=(4, 6), fit=False)
    assert format == "JPEG" or np.array_equal(without, stored)
    size = (4, 6) if orientation < 5 else (6, 4)
    assert np.array_equal(decode(turned, size=size, fit=False)[0], SHOWN[orientation](without))


def test_turned_images_have_the_size_that_they_are_shown_with(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in [*folder.glob("*/*/*.png")]:
        path.unlink()
        pixels = np.zeros((4, 6, 3), dtype=np.uint8)
        path.with_suffix(".jpg").write_bytes(jpeg(pixels, exif.tobytes()))
    with pytest.raises(DamagedDataError, match="6 high and 4 wide"):
        load_data(str(folder))


def test_damaged_exif_data_leave_an_image_as_it_is(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    (tmp_path / "one.jpg").write_bytes(jpeg(pixels, b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    assert decode(tmp_path / "one.jpg", size=(4, 6), fit=False)[0].shape == (4, 6, 3)


def png_of_16_bits(kind: int, channels: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + np.full((4, channels), 0x1234, dtype=">u2").tobytes()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")


DEEP = {
    "gray.png": png_of_16_bits(0, 1),
    "colour.png": png_of_16_bits(2, 3),
    "gray-alpha.png": png_of_16_bits(4, 2),
    "colour-alpha.png": png_of_16_bits(6, 4),
    "gray.pgm": b"P5 4 4 65535\n" + bytes(32),
    "colour.ppm": b"P6 4 4 65535\n" + bytes(96),
    "colour10.ppm": b"P6 4 4 1023\n" + bytes(96),
}


def test_images_of_more_than_8_bits_are_refused_gray_and_colour_alike(folder: Path) -> None:
    for name, content in DEEP.items():
        (folder / "train/cat" / name).write_bytes(content)
    with pytest.raises(
        DamagedDataError, match=rf"{len(DEEP)} of {8 + len(DEEP)} images are corrupt"
    ) as caught:
        load_data(str(folder), image_size=4)
    assert all(f"{name} has more than 8 bits for each pixel value" in str(caught.value) for name in DEEP)
    left = load_data(str(folder), image_size=4, selection=Selection(allow_corrupt=True)).left_out
    assert left == len(DEEP)


def test_colours_of_8_bits_are_not_taken_for_deeper_ones(tmp_path: Path) -> None:
    for name in ("one.ppm", "one.png", "one.tiff", "one.bmp"):
        Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / name)
        assert decode(tmp_path / name, size=(4, 4), fit=False)[0][0, 0].tolist() == [9, 8, 7]
