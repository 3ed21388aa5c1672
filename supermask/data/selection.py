"""Which images of a folder are taken, and the size they are stored at."""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from supermask.checks import MOST_PIXELS, is_count, is_number
from supermask.data.draws import Stream, permutation
from supermask.data.errors import DamagedDataError, MissingDataError
from supermask.suggest import ending

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is taken of a folder of images; by default all of it, at the size of its images.

    Attributes:
        stored_size: Height and width to store images at; random resized crops are cut from these, and
            evaluation sees their middle. None stores them at the size they are used at.
        classes: Names of the class folders, or none for all.
        per_class_fraction: Share of each class of the training split, chosen at random but always the
            same; at least one image. A smaller share is part of a larger one.
        allow_corrupt: Leave out images that are missing or cannot be decoded, where they would be an error.

    Raises:
        ValueError: A value is out of range.
    """

    stored_size: int | None = None
    classes: tuple[str, ...] = ()
    per_class_fraction: float = 1.0
    allow_corrupt: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.per_class_fraction) or not 0 < self.per_class_fraction <= 1:
            raise ValueError(f"per_class_fraction is in (0, 1], not {self.per_class_fraction!r}")
        check_pixels(self.stored_size, "stored_size")
        given: object = self.classes
        if isinstance(given, str):
            raise ValueError(f"classes is a list of names, not the text {given!r}; write [{given!r}]")

    def thinned(self, name: str, files: Sequence[T]) -> list[T]:
        """The files of a class that belong to the fraction, in their order."""
        count = max(1, round(self.per_class_fraction * len(files)))
        # The choice in one class depends on its name and not on which others there are.
        index = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        chosen = np.sort(permutation(0, Stream.CLASS_FRACTION, index, len(files))[:count])
        return [files[place] for place in chosen]


def check_pixels(size: int | None, name: str) -> None:
    """Refuse a height and width, called `name`, that no images have; None says nothing of them.

    Raises:
        ValueError: It is no whole number from 1 to `MOST_PIXELS`.
    """
    if size is not None and (not is_count(size, 1) or size > MOST_PIXELS):
        raise ValueError(f"{name} is a number of pixels from 1 to {MOST_PIXELS}, not {size!r}")


def read_classes(given: Sequence[str]) -> tuple[str, ...]:
    """Names of classes from a command line, sorted.

    A word is a file of names, or names joined by commas or else by spaces: ``"african elephant,"`` is one. A
    file has a name at the start of each line; empty lines and those that begin with # are passed over. A
    name may have dots; one with a slash, or that ends in .txt, can only be a file.

    Raises:
        MissingDataError: A word can only be a file, and there is none; or no word has a name.
        DamagedDataError: A file has no names.
    """
    names: set[str] = set()
    for word in given:
        whole = os.path.isfile(os.path.expanduser(word))
        pieces = [word] if whole else word.split(",") if "," in word else word.split()
        for piece in map(str.strip, pieces):
            path = Path(os.path.expanduser(piece))
            # Asked of os.path, which finds no file under many names joined to one that is too long.
            if os.path.isfile(path):
                names |= _names_in(path)
            elif len(path.parts) > 1 or path.suffix.lower() == ".txt":
                raise MissingDataError(
                    f"there is no file {piece!r} of class names; give its path, or the names"
                )
            elif piece:
                names.add(piece)
    if given and not names:
        raise MissingDataError("no class is named; give names, or leave it out")
    return tuple(sorted({unicodedata.normalize("NFC", name) for name in names}))


def _names_in(path: Path) -> set[str]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    found = {words[0] for words in lines if words and not words[0].startswith("#")}
    if not found:
        raise DamagedDataError(f"{path} names no class; write one at the start of each line")
    return found


def check_known(wanted: Sequence[str], present: Sequence[str], split: Path) -> None:
    """Refuse names of classes that a split does not have.

    Raises:
        MissingDataError: It names them.
    """
    unknown = sorted(set(wanted) - set(present))
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        # A file of names that is not there looks like the name of a class.
        file = "; nor is there a file of that name" if any("." in name for name in unknown) else ""
        raise MissingDataError(
            f"{split} has no class {', '.join(unknown[:5])}{more}{file}{ending(unknown[0], present)}"
        )
