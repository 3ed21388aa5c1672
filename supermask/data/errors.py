"""What can be wrong with data: a name, a place, the bytes."""

from collections.abc import Iterable
from pathlib import Path


class DataError(ValueError):
    """A data set cannot be had.

    Attributes:
        flag: The flag of a command that named it.
    """

    flag = "data"


class UnknownDataError(DataError):
    """No data set answers to the name."""


class MissingDataError(DataError):
    """The files of a data set are not where they were looked for."""


class DamagedDataError(DataError):
    """The files of a data set are there, and are not what they should be."""


class UnreadableImageError(DamagedDataError):
    """An image file cannot be decoded."""


def missing(name: str, looked: Iterable[Path], remedy: str) -> MissingDataError:
    """Return the error for a data set that is in none of the places looked at."""
    places = ", ".join(str(path) for path in looked)
    return MissingDataError(
        f"the data set {name!r} was not found. Looked for: {places}. Nothing is downloaded: "
        f"{remedy}, and give the folder that holds it as root= or in SUPERMASK_DATA"
    )
