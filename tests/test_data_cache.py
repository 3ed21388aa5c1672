"""Decoded images in a mapped file: selections, changes of the source, damage, interrupts, reading ahead."""

import gc
import hashlib
import io
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supermask.data import (
    DamagedDataError,
    Dataset,
    Images,
    Loader,
    MissingDataError,
    Selection,
    build,
    iterate_eval,
    load_data,
)
from supermask.data.cache import cache_folder, header_bytes, open_cache
from supermask.data.decode import decode
from supermask.data.mapped import MappedImages
from supermask.data.selection import read_classes

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERMASK_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


def jpeg(seed: int, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size)
    buffer = io.BytesIO()
    coarse.convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_folder(root: Path, train: int = 6, test: int = 2) -> Path:
    for split, count in (("train", train), ("val", test)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index:03}.JPEG").write_bytes(
                    jpeg(100 * label + index + (50 if split == "val" else 0))
                )
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "animals")


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files decoded from now on."""
    seen: list[Path] = []

    def counted(path: Path, **arguments: object) -> tuple[np.ndarray, bool]:
        seen.append(path)
        return decode(path, **arguments)

    monkeypatch.setattr(build, "decode", counted)
    return seen


def only_cache(caches: Path) -> Path:
    (path,) = caches.glob("*.images")
    return path


# Decoding.


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_images_are_those_of_pillow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "one.jpg"
    path.write_bytes(jpeg(1, (23, 17), mode))
    with Image.open(path) as image:
        whole = image.convert("RGB")
    pixels, gray = decode(path, size=(17, 23), fit=False)
    assert np.array_equal(pixels, np.asarray(whole)) and gray == (mode == "L")
    square, _ = decode(path, size=(8, 8), fit=True)
    assert np.array_equal(
        square, np.asarray(whole.resize((8, 8), Image.Resampling.BILINEAR, box=(3, 0, 20, 17)))
    )
    square, _ = decode(path, size=(17, 17), fit=True)
    assert np.array_equal(square, np.asarray(whole.crop((3, 0, 20, 17))))


def test_a_png_under_the_name_of_a_jpeg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.JPEG"
    Image.new("RGB", (4, 4), (9, 8, 7)).save(path, "PNG")
    assert decode(path, size=(4, 4), fit=False)[0].reshape(-1, 3).tolist() == [[9, 8, 7]] * 16


# What is in a cache.


def test_a_cache_holds_the_folder_and_its_fingerprint(folder: Path, caches: Path) -> None:
    dataset = load_data(str(folder), image_size=12)
    assert isinstance(dataset.train, MappedImages)
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for images, split in ((dataset.train, "train"), (dataset.test, "val")):
        expected = [
            decode(path, size=(12, 12), fit=True)[0]
            for name in CLASSES
            for path in sorted((folder / split / name).iterdir())
        ]
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    resident = resident_copy(dataset)
    # As documented: SHA-256 over classes, mean and std, then pixels and labels of both splits.
    digest = hashlib.sha256(repr((dataset.classes, dataset.mean, dataset.std)).encode())
    for images in (resident.train, resident.test):
        digest.update(images.pixels.numpy().tobytes() + images.labels.numpy().tobytes())
    assert dataset.fingerprint == resident.fingerprint == digest.hexdigest()[:12]
    levels = resident.train.pixels.double() / 255
    assert dataset.mean == pytest.approx(levels.mean((0, 2, 3)).tolist())
    assert dataset.std == pytest.approx(levels.std((0, 2, 3), correction=0).tolist())
    assert [path.name for path in caches.iterdir() if not path.name.endswith(".lock")] == [
        only_cache(caches).name
    ]


def resident_copy(dataset: Dataset) -> Dataset:
    """The same images in memory."""
    train, test = (
        Images(images.pixels.contiguous(), images.labels) for images in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test, known_fingerprint=None)


def test_a_cache_is_used_again_and_made_again_when_a_file_changes(
    folder: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = decodings(monkeypatch)
    first = load_data(str(folder), image_size=12)
    assert len(seen) == 24
    assert load_data(str(folder), image_size=12).fingerprint == first.fingerprint
    assert len(seen) == 24
    os.utime(folder / "train" / "bee" / "003.JPEG", ns=(1, 1))
    assert load_data(str(folder), image_size=12).fingerprint == first.fingerprint
    assert len(seen) == 48
    (folder / "train" / "bee" / "003.JPEG").unlink()
    assert len(load_data(str(folder), image_size=12).train) == 17
    assert len(first.train.pixels) == 18, "an open file stays what it was when another replaces it"
    (folder / "train" / "bee" / "004.JPEG").rename(folder / "train" / "bee" / "4.JPEG")
    load_data(str(folder), image_size=12)
    assert len(seen) == 48 + 23 + 23
    assert len(list(caches.glob("*.images"))) == 1


@pytest.mark.parametrize("how", ["empty", "truncated", "longer", "length", "flipped", "digest", "text"])
def test_a_damaged_cache_is_made_again(folder: Path, caches: Path, how: str) -> None:
    sound = load_data(str(folder), image_size=12).fingerprint
    path = only_cache(caches)
    data = bytearray(path.read_bytes())
    if how == "empty":
        data = bytearray()
    elif how == "truncated":
        data = data[:-1]
    elif how == "longer":
        data += b"\0"
    elif how == "length":
        data[3] ^= 0x40
    elif how == "flipped":
        data[data.index(b'mean\\": [0.') + 12] ^= 1
    elif how == "digest":
        data[data.index(b'sha256": "') + 12] ^= 1
    else:
        data = bytearray(b"not a cache" * 100)
    path.write_bytes(data)
    assert open_cache(path) is None
    assert load_data(str(folder), image_size=12).fingerprint == sound
    assert open_cache(path) is not None


def test_every_bit_of_a_header_is_checked(folder: Path, caches: Path) -> None:
    load_data(str(folder), image_size=12)
    path = only_cache(caches)
    data = path.read_bytes()
    end = data.index(b"   ")
    assert json.loads(data[8:end])["pixels"]["shape"] == [24, 12, 12, 3]
    rng = np.random.default_rng(0)
    for place in rng.integers(0, end, 60).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(damaged)
        assert open_cache(path) is None, place


def test_headers_of_many_classes_fit_their_room(tmp_path: Path) -> None:
    names = [f"n{index:08}-with-a-längere-name" for index in range(300)]
    for split in ("train", "val"):
        for name in names:
            (tmp_path / "many" / split / name).mkdir(parents=True)
            Image.new("L", (1, 1), 3).save(tmp_path / "many" / split / name / "0.png")
    dataset = load_data(str(tmp_path / "many"))
    assert (dataset.num_classes, dataset.in_channels, len(dataset.test)) == (300, 1, 300)
    assert header_bytes(1000, 12_000) % 4096 == 0


# Selections.


def test_classes_come_as_names_and_as_files(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("# some\n\nn2 a wolf\n  n1\n")
    assert read_classes(["n3,n1", "n9", str(listed)]) == ("n1", "n2", "n3", "n9")
    assert read_classes([]) == ()
    with pytest.raises(MissingDataError, match=r"no file 'lost\.txt' of class names"):
        read_classes(["lost.txt"])
    with pytest.raises(MissingDataError, match=r"no file 'some/names' of class names"):
        read_classes(["n1,some/names"])
    listed.write_text("#\n")
    with pytest.raises(DamagedDataError, match="names no class"):
        read_classes([str(listed)])


def test_names_of_classes_may_have_dots_and_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_classes(["b.c a", "d.e,f"]) == ("a", "b.c", "d.e", "f")
    assert read_classes(["african elephant, ant", "polar bear,"]) == ("african elephant", "ant", "polar bear")
    many = [f"n{index:08}" for index in range(1000)]
    assert list(read_classes([",".join(many)])) == list(read_classes([" ".join(many)])) == many
    monkeypatch.chdir(tmp_path)
    Path("a list").write_text("n2\n")
    Path("list.of.it").write_text("n3\n")
    assert read_classes(["a list", "list.of.it,b.c"]) == ("b.c", "n2", "n3")


def test_a_class_with_a_dot_is_chosen_and_missed(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / split / "bee").rename(folder / split / "b.ee")
    chosen = Selection(classes=read_classes(["b.ee ant"]))
    assert load_data(str(folder), image_size=12, selection=chosen).classes == ("ant", "b.ee")
    lost = Selection(classes=read_classes(["b.e"]))
    with pytest.raises(MissingDataError, match=r"no class b\.e; nor is there a file .*; did you mean b\.ee"):
        load_data(str(folder), image_size=12, selection=lost)


def test_chosen_classes_are_all_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = decodings(monkeypatch)
    dataset = load_data(str(folder), image_size=12, selection=Selection(classes=("ant", "cat")))
    assert dataset.classes == ("ant", "cat")
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert not [path for path in seen if path.parent.name == "bee"]
    whole = load_data(str(folder), image_size=12)
    assert torch.equal(dataset.train.pixels[6:], whole.train.pixels[12:])
    assert dataset.fingerprint != whole.fingerprint
    with pytest.raises(MissingDataError, match=r"train has no class act; did you mean .*ant"):
        load_data(str(folder), image_size=12, selection=Selection(classes=("act", "bee")))


def test_a_fraction_of_each_class_is_always_the_same_and_part_of_a_larger_one(folder: Path) -> None:
    def images(fraction: float, classes: tuple[str, ...] = ()) -> Dataset:
        selection = Selection(per_class_fraction=fraction, classes=classes)
        return load_data(str(folder), image_size=12, selection=selection)

    def pictures(dataset: Dataset) -> set[bytes]:
        return {image.numpy().tobytes() for image in dataset.train.pixels}

    third, half, whole = images(1 / 3), images(0.5), images(1.0)
    assert third.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(third.test) == len(whole.test) == 6
    assert pictures(third) < pictures(half) < pictures(whole)
    assert images(0.01).train.labels.tolist() == [0, 1, 2]
    alone = images(1 / 3, ("cat",))
    assert torch.equal(alone.train.pixels, third.train.pixels[4:])
    with pytest.raises(ValueError, match=r"per_class_fraction is in \(0, 1\], not 0"):
        Selection(per_class_fraction=0)


def test_only_folders_can_be_chosen_from() -> None:
    with pytest.raises(ValueError, match="'digits' is no folder of images"):
        load_data("digits", selection=Selection(per_class_fraction=0.5))


def test_images_are_stored_larger_than_they_are_used(folder: Path) -> None:
    dataset = load_data(str(folder), image_size=8, selection=Selection(stored_size=12))
    assert (dataset.image_size, dataset.train.shape) == (8, (3, 12, 12))
    assert dataset.fingerprint == load_data(str(folder), image_size=12).fingerprint
    ((pixels, _),) = iterate_eval(dataset.test, 99, dataset.mean, dataset.std, image_size=dataset.image_size)
    restored = pixels * torch.tensor(dataset.std).view(3, 1, 1) + torch.tensor(dataset.mean).view(3, 1, 1)
    torch.testing.assert_close(
        restored * 255, dataset.test.pixels[:, :, 2:10, 2:10].float(), atol=1e-3, rtol=0
    )
    with pytest.raises(ValueError, match="image_size 13 is above the stored size 12"):
        load_data(str(folder), image_size=13, selection=Selection(stored_size=12))


# Corrupt images.


def test_corrupt_images_are_named_and_counted(folder: Path, caches: Path) -> None:
    cut = folder / "train" / "ant" / "002.JPEG"
    cut.write_bytes(cut.read_bytes()[:300])
    (folder / "train" / "cat" / "005.JPEG").write_bytes(b"nothing")
    (folder / "val" / "bee" / "000.JPEG").write_bytes(b"")
    with pytest.raises(DamagedDataError) as caught:
        load_data(str(folder), image_size=12)
    text = str(caught.value)
    assert "3 of 24 images are corrupt" in text and "allow_corrupt" in text
    assert all(name in text for name in ("train/ant/002.JPEG", "train/cat/005.JPEG", "val/bee/000.JPEG"))
    assert not [path for path in caches.iterdir() if not path.name.endswith(".lock")]

    dataset = load_data(str(folder), image_size=12, selection=Selection(allow_corrupt=True))
    assert dataset.left_out == 3
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 6 + [2] * 5
    assert dataset.test.labels.tolist() == [0, 0, 1, 2, 2]
    kept = [decode(folder / "train" / "ant" / f"00{i}.JPEG", size=(12, 12), fit=True)[0] for i in (1, 3)]
    assert np.array_equal(dataset.train.pixels[1:3].permute(0, 2, 3, 1).numpy(), np.stack(kept))
    last = decode(folder / "val" / "cat" / "001.JPEG", size=(12, 12), fit=True)[0]
    assert np.array_equal(dataset.test.pixels[-1].permute(1, 2, 0).numpy(), last)
    assert dataset.fingerprint == resident_copy(dataset).fingerprint
    # What was allowed once is not allowed for ever.
    with pytest.raises(DamagedDataError, match=r"3 missing or corrupt images were left out .*train/ant/002"):
        load_data(str(folder), image_size=12)


def test_a_class_with_nothing_but_corrupt_images_is_refused(folder: Path) -> None:
    for path in (folder / "val" / "bee").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DamagedDataError, match="every image of the class bee in val/ is missing or corrupt"):
        load_data(str(folder), image_size=12, selection=Selection(allow_corrupt=True))


# Interrupts, rivals, disks.


def _build_slowly(folder: str, caches: str) -> None:
    def slow(path: Path, **arguments: object) -> tuple[np.ndarray, bool]:
        time.sleep(0.2)
        return decode(path, **arguments)

    build.decode = slow
    load_data(folder, image_size=12, cache=caches)


def _load(folder: str, caches: str, queue: object) -> None:
    queue.put(load_data(folder, image_size=12, cache=caches).fingerprint)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_build_leaves_nothing_and_is_no_hindrance(folder: Path, caches: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_build_slowly, args=(str(folder), str(caches))
    )
    process.start()
    wait_for(lambda: list(caches.glob(".*.tmp")))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(caches.glob("*.images")) and list(caches.glob(".*.tmp"))
    assert len(load_data(str(folder), image_size=12).train) == 18
    assert len(list(caches.glob("*.images"))) == 1 and not list(caches.glob(".*.tmp"))


def test_an_interrupted_build_leaves_nothing(
    folder: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_data(str(folder), image_size=12)
    assert [path.suffix for path in caches.iterdir()] == [".lock"]


def test_processes_that_build_at_once_agree(folder: Path, caches: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(str(folder), str(caches), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=300) for _ in processes}
    for process in processes:
        process.join()
    assert found == {load_data(str(folder), image_size=12).fingerprint}
    assert len(list(caches.glob("*.images"))) == 1


def test_a_full_disk_is_told_beforehand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import disk_usage

    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: disk_usage(path)._replace(free=100))
    with pytest.raises(DamagedDataError, match="name a folder with more room as cache"):
        load_data(str(folder), image_size=12)


def test_the_folder_of_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERMASK_CACHE", "/some/where")
    assert cache_folder() == Path("/some/where") and cache_folder("/else") == Path("/else")
    monkeypatch.delenv("SUPERMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/supermask")


# Batches.


@pytest.mark.parametrize("augment", ["none", "crop-flip", "resized-crop", "resized-crop-colour"])
def test_batches_are_the_same_from_memory_from_the_file_and_read_ahead(folder: Path, augment: str) -> None:
    dataset = load_data(str(folder), image_size=10, selection=Selection(stored_size=14))
    arguments = {
        **{"batch_size": 5, "seed": 2, "mean": dataset.mean, "std": dataset.std},
        **{"augment": augment, "image_size": dataset.image_size},
    }
    part = torch.tensor([17, 3, 4, 0, 9, 8, 12, 1, 2, 16, 7])
    mapped = dataset.train.take(part)
    resident = Loader(resident_copy(dataset).train.take(part), **arguments)
    expected = [resident.batch(step) for step in range(7)]
    loaders = [Loader(mapped, stream=False, **arguments)]
    for workers, ahead in ((0, 0), (1, 0), (1, 3), (3, 2)):
        loaders.append(Loader(mapped, stream=True, workers=workers, ahead=ahead, **arguments))
    for loader in loaders:
        assert loader.steps_per_epoch == 2
        # In order, over the end of an epoch, back, and from the middle.
        for step in (0, 1, 2, 3, 6, 2, 2, 5, 0):
            pixels, labels = loader.batch(step)
            assert torch.equal(pixels, expected[step][0]) and torch.equal(labels, expected[step][1])
        for step, rows in ((1, slice(1, 4)), (2, slice(1, 4)), (3, slice(0, 2))):
            assert torch.equal(loader.batch(step, rows)[0], expected[step][0][rows])
    assert (
        Loader(mapped, stream=True, channels_last=True, **arguments)
        .batch(3)[0]
        .is_contiguous(memory_format=torch.channels_last)
    )


def test_images_that_do_not_fit_are_read_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supermask.data import read_ahead

    dataset = load_data(str(folder), image_size=10)
    arguments = {"batch_size": 5, "seed": 2, "mean": dataset.mean, "std": dataset.std}
    assert Loader(dataset.train, **arguments)._read_ahead is None
    monkeypatch.setattr(read_ahead, "available_memory", lambda: 2 * dataset.train.nbytes - 1)
    assert Loader(dataset.train, **arguments)._read_ahead is not None
    with pytest.raises(ValueError, match="workers and ahead are not negative"):
        Loader(dataset.train, workers=-1, **arguments)


def test_those_who_use_images_on_a_device_share_one_copy(folder: Path) -> None:
    from supermask.data.dataset import is_on_device, on_device

    images = load_data(str(folder), image_size=10).train
    assert on_device(images, "cpu") is images and not is_on_device(images, "cpu")
    first = on_device(images, "meta")
    assert on_device(images, "meta") is first and is_on_device(images, "meta")
    del first
    gc.collect()
    assert not is_on_device(images, "meta")


def test_a_split_of_mapped_images_reads_none_of_them(folder: Path) -> None:
    dataset = load_data(str(folder), image_size=10)
    ours, expected = dataset.split(0.3, seed=1), resident_copy(dataset).split(0.3, seed=1)
    for part, other in zip(ours, expected, strict=True):
        assert isinstance(part, MappedImages) and part.stored is dataset.train.stored
        assert torch.equal(part.pixels, other.pixels) and torch.equal(part.labels, other.labels)


@pytest.mark.cuda
@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop"])
def test_batches_read_ahead_are_the_same_bits_on_the_gpu(folder: Path, augment: str) -> None:
    dataset = load_data(str(folder), image_size=10)
    arguments = {"batch_size": 5, "seed": 2, "mean": dataset.mean, "std": dataset.std, "augment": augment}
    host = Loader(dataset.train, **arguments)
    for stream in (True, False):
        device = Loader(dataset.train, device="cuda", stream=stream, **arguments)
        for step in (0, 1, 5, 2):
            pixels, labels = device.batch(step)
            assert torch.equal(pixels.cpu(), host.batch(step)[0]) and torch.equal(
                labels.cpu(), host.batch(step)[1]
            )
