"""Labels of the ImageNet validation images as published: all images in one folder, their classes in a file.

Kaggle's archive has ``LOC_val_solution.csv``. The development kit of ILSVRC 2012 has
``ILSVRC2012_validation_ground_truth.txt``, a number for each image, and ``meta.mat``, which says what class
each number means; later kits say it in ``map_clsloc.txt``, too.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supermask.data.errors import DamagedDataError, MissingDataError

_KAGGLE = "LOC_val_solution.csv"
_NUMBERS = "ILSVRC2012_validation_ground_truth.txt"
_SYNSETS, _META = "map_clsloc.txt", "meta.mat"
_IMAGE = "ILSVRC2012_val_{:08}"
#: Bytes; the published file has less than two megabytes.
_LARGEST_META = 1 << 24
#: Kaggle's table lies three folders above val/: next to ILSVRC, in ILSVRC/Data/CLS-LOC/val.
_LEVELS = 3
HINT = (
    f"put {_KAGGLE} of Kaggle or the ILSVRC2012_devkit_t12 folder of the development kit beside it, "
    "or sort the images into one folder for each class"
)


def published_labels(root: Path) -> dict[str, str] | None:
    """Names of validation images without suffix, and the code of the class of each.

    The files are looked for in the folder of the data set and up to three folders above it; those of the
    development kit also in its own folders there.

    Args:
        root: The folder that holds ``val/``.

    Returns:
        None where there is no such file.

    Raises:
        DamagedDataError: A file is not what it should be.
        MissingDataError: The numbers are there, and nothing that says what they mean, or nothing to read it.
    """
    root = root.resolve()
    for folder in (root, *root.parents[:_LEVELS]):
        if (table := folder / _KAGGLE).is_file():
            return _of_kaggle(table)
        for kit in _kits(folder):
            if (numbers := kit / _NUMBERS).is_file():
                return _of_kit(numbers)
    return None


def _kits(folder: Path) -> Iterator[Path]:
    yield folder
    for kit in (folder, *sorted(folder.glob("ILSVRC20*_devkit*")), folder / "devkit"):
        yield kit / "data"


def _of_kaggle(path: Path) -> dict[str, str]:
    """Rows are ``ILSVRC2012_val_00000001,n01751748 85 1 499 272``: the code and box of each object."""
    labels = {}
    for number, row in enumerate(csv.reader(_lines(path)), 1):
        if row == ["ImageId", "PredictionString"]:
            continue
        if len(row) != 2 or not (words := row[1].split()):
            raise DamagedDataError(
                f"{path}, line {number}, is not an image and its class; get the file again"
            )
        labels[row[0]] = words[0]
    return labels


def _of_kit(path: Path) -> dict[str, str]:
    """A line has the number of the class of one image, in the order of the images' names."""
    codes = _codes(path.parent)
    labels = {}
    for line, number in enumerate(_lines(path), 1):
        if (code := codes.get(number.strip())) is None:
            raise DamagedDataError(
                f"{path}, line {line}: {number[:20]!r} is not the number of a class; get the file again"
            )
        labels[_IMAGE.format(line)] = code
    return labels


def _codes(kit: Path) -> dict[str, str]:
    """Number of a class, as text, and its code."""
    if (synsets := kit / _SYNSETS).is_file():
        rows = [line.split() for line in _lines(synsets)]
        return {row[1]: row[0] for row in rows if len(row) > 1}
    if not (meta := kit / _META).is_file():
        raise MissingDataError(
            f"{kit} has {_NUMBERS} and neither {_META} nor {_SYNSETS}, which say what class each number "
            "means; unpack the whole development kit"
        )
    return {str(number): code for number, code in _synsets_of(meta)}


def _synsets_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and codes from the kit's MATLAB file; reading one executes nothing."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingDataError(
            f"{path} is a file of MATLAB, and scipy, which reads it, is not installed: pip install scipy"
        ) from None
    if path.stat().st_size > _LARGEST_META:
        raise DamagedDataError(f"{path} is larger than any file of that name; get the file again")
    try:
        synsets: Any = loadmat(path, variable_names=["synsets"], squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        yield from [(int(number), str(code)) for number, code in pairs]
    except Exception as error:
        # For bad bytes the reader raises nearly anything, and all means the same here.
        raise DamagedDataError(f"{path} does not list the classes ({error!r}); get the file again") from None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{path} is not text ({error}); get the file again") from None
