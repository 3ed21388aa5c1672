"""What lies in a folder of images: its splits, classes and files, without a look into them."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supermask.data.entries import Entry, broken_link, shown
from supermask.data.errors import DamagedDataError, DataError, MissingDataError
from supermask.data.selection import Selection, check_known
from supermask.data.splits import Split, open_split

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
#: Part of the fingerprint of every folder: with another way to decode, every cache is made again.
_DECODING = b"turned as EXIF says\n"


@dataclass(frozen=True)
class Listing:
    """Files of both splits.

    Attributes:
        root: The folder.
        classes: Names of the classes, sorted; a label is a place in here.
        files: Paths below the root, of the training split and then of the test split, class by class.
        counts: Images of each class, of the training split and of the test split.
        fingerprint: Hash of the paths, sizes and times of change of the files.
        missing: Index of a file → why there is no image of that name.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    fingerprint: str
    missing: Mapping[int, str]


def list_folder(root: Path, selection: Selection) -> Listing:
    """List the selected files of a folder of images.

    Files that are not images by their suffix, and whatever is hidden, are passed over; links are followed.
    Where ``test/``, ``val/`` and ``validation/`` exist together, the first of them that has labels, as class
    folders or as ImageNet's published files, is the test split.

    Raises:
        MissingDataError: A split or a selected class is not there.
        DamagedDataError: A split or a class is empty, the splits have different classes, images of a split
            have no labels, a link leads nowhere or back, or a name is no UTF-8.
    """
    splits = _splits(root)
    classes: Sequence[str]
    if selection.classes:
        for split in splits:
            check_known(selection.classes, split.classes, split.path)
        classes = selection.classes
    else:
        _check_same_classes(*splits)
        classes = splits[0].classes
    entries: list[Entry] = []
    counts = []
    for split in splits:
        count = []
        for name in classes:
            found = split.images(name)
            if split is splits[0]:
                found = selection.thinned(name, found)
            count.append(len(found))
            entries += [Entry(f"{split.path.name}/{e.path}", e.size, e.changed, e.missing) for e in found]
        counts.append(tuple(count))
    return Listing(
        root=root,
        classes=tuple(classes),
        files=tuple(entry.path for entry in entries),
        counts=(counts[0], counts[1]),
        fingerprint=_fingerprint(entries),
        missing={index: entry.missing for index, entry in enumerate(entries) if entry.missing},
    )


def _fingerprint(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256(_DECODING)
    for entry in entries:
        digest.update(os.fsencode(entry.path) + f"\0{entry.size}\0{entry.changed}\n".encode())
    return digest.hexdigest()


def _splits(root: Path) -> tuple[Split, Split]:
    for name in (TRAIN_FOLDER, *TEST_FOLDERS):
        if reason := broken_link(str(root / name)):
            raise DamagedDataError(f"{shown(root / name)} {reason}; fetch what it names, or remove the link")
    train = root / TRAIN_FOLDER
    tests = [root / split for split in TEST_FOLDERS if (root / split).is_dir()]
    if not train.is_dir() or not tests:
        lacking = f"{TRAIN_FOLDER}/" if not train.is_dir() else "any of test/, val/, validation/"
        raise MissingDataError(
            f"{root} is not a folder of images: it lacks {lacking}. It needs train/ and one of "
            "test/, val/, validation/, each with one folder of images for each class"
        )
    opened = open_split(train)
    return opened, _test_split(tests, opened)


def _test_split(folders: Sequence[Path], train: Split) -> Split:
    """The first of several folders that has labels and a class of the training split."""
    strange: list[Split] = []
    refused: list[DataError] = []
    for folder in folders:
        try:
            split = open_split(folder)
        except DataError as error:
            refused.append(error)
            continue
        if not set(split.classes).isdisjoint(train.classes):
            return split
        strange.append(split)
    if strange:
        return strange[0]
    if len(refused) == 1:
        raise refused[0]
    raise DamagedDataError("; ".join(map(str, refused)))


def _check_same_classes(train: Split, test: Split) -> None:
    differences = []
    for here, there in ((train, test), (test, train)):
        lacking = sorted(set(here.classes) - set(there.classes))
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            differences.append(f"{there.path} lacks {', '.join(lacking[:5])}{more}")
    if differences:
        raise DamagedDataError(
            f"the splits have different classes: {'; '.join(differences)}. Give both the same class folders, "
            "or name the classes to take"
        )
