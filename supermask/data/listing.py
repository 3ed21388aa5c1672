"""What lies in a folder of images: its splits, classes and files, without a look into them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from supermask.data.errors import DamagedDataError, MissingDataError
from supermask.data.selection import Selection, check_known

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Listing:
    """Files of both splits.

    Attributes:
        root: The folder.
        classes: Names of the class folders, sorted; a label is a place in here.
        files: Paths below the root, of the training split and then of the test split, class by class.
        counts: Images of each class, of the training split and of the test split.
        fingerprint: Hash of the paths, sizes and times of change of the files.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    fingerprint: str


def list_folder(root: Path, selection: Selection) -> Listing:
    """List the selected files of a folder of images.

    Files that are not images by their suffix and hidden folders are passed over. Where ``test/``, ``val/``
    and ``validation/`` exist together, the first of them is the test split.

    Raises:
        MissingDataError: A split or a selected class is not there.
        DamagedDataError: A split or a class is empty, or the splits have different classes.
    """
    splits = _split_paths(root)
    names = [_class_names(split) for split in splits]
    if selection.classes:
        for split, present in zip(splits, names, strict=True):
            check_known(selection.classes, present, split)
        classes: Sequence[str] = selection.classes
    else:
        _check_same_classes(names[0], splits[0], names[1], splits[1])
        classes = names[0]
    digest = hashlib.sha256()
    files: list[str] = []
    counts = []
    for split in splits:
        count = []
        for name in classes:
            found = _images_of(split / name)
            if split is splits[0]:
                found = selection.thinned(name, found)
            count.append(len(found))
            for path, status in found:
                relative = f"{split.name}/{name}/{path}"
                digest.update(
                    f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
                )
                files.append(relative)
        counts.append(tuple(count))
    return Listing(root, tuple(classes), tuple(files), (counts[0], counts[1]), digest.hexdigest())


def _split_paths(root: Path) -> tuple[Path, Path]:
    train = root / TRAIN_FOLDER
    test = next((root / split for split in TEST_FOLDERS if (root / split).is_dir()), None)
    if not train.is_dir() or test is None:
        lacking = f"{TRAIN_FOLDER}/" if not train.is_dir() else "any of test/, val/, validation/"
        raise MissingDataError(
            f"{root} is not a folder of images: it lacks {lacking}. It needs train/ and one of "
            "test/, val/, validation/, each with one folder of images for each class"
        )
    return train, test


def _class_names(split: Path) -> list[str]:
    names = sorted(
        entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise DamagedDataError(
            f"{split} has no class folders; put the images of each class into a folder of its own "
            f"there, such as {split / 'cat'}"
        )
    return names


def _check_same_classes(train: Sequence[str], train_path: Path, test: Sequence[str], test_path: Path) -> None:
    if train == test:
        return
    differences = []
    for here, there, path in ((train, test, test_path), (test, train, train_path)):
        lacking = sorted(set(here) - set(there))
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            differences.append(f"{path} lacks {', '.join(lacking[:5])}{more}")
    raise DamagedDataError(
        f"the splits have different classes: {'; '.join(differences)}. Give both the same class folders, or "
        "name the classes to take"
    )


def _images_of(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Paths below the folder of a class, in order, and what the file system knows of each."""
    found = sorted(_walk(str(folder), ""), key=lambda entry: entry[0].split("/"))
    if not found:
        raise DamagedDataError(
            f"the class folder {folder} has no images ({' '.join(sorted(_SUFFIXES))}); fill it, "
            "or remove it from every split"
        )
    return found


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES and entry.is_file():
                yield prefix + entry.name, entry.stat()
