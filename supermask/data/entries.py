"""Image files of one folder, with those that should be there and are not."""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from supermask.data.errors import DamagedDataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Entry:
    """The name of an image file.

    Attributes:
        path: Below the folder that was walked, with `/` between its parts, as the file system has it.
        size: Bytes.
        changed: Time of change in nanoseconds.
        missing: Why there is no image of that name, or nothing.
    """

    path: str
    size: int = 0
    changed: int = 0
    missing: str = ""


def image_entries(folder: str) -> list[Entry]:
    """Image files below a folder, in the order of their paths.

    Files are told to be images by their suffix. Hidden files and folders are passed over, links are followed.
    A link that leads nowhere is missing where its name is that of an image or has no suffix; so is an image
    that is no regular file, such as a pipe.

    Raises:
        DamagedDataError: A link leads back to a folder that it lies in.
        OSError: A folder cannot be read.
    """
    return sorted(_walk(folder, "", ()), key=lambda entry: entry.path.split("/"))


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text for a message, with bytes that are no UTF-8 as hexadecimal numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def name_of(folder: os.PathLike[str]) -> str:
    """The name of a folder as text, the same under every locale.

    Accents are parts of their letters (NFC), which macOS keeps apart from them.

    Raises:
        DamagedDataError: The name is no UTF-8.
    """
    try:
        return unicodedata.normalize("NFC", os.fsencode(os.path.basename(folder)).decode("utf-8"))
    except UnicodeDecodeError:
        raise DamagedDataError(
            f"the name of the folder {shown(folder)} is not valid UTF-8; rename the folder"
        ) from None


def broken_link(path: str) -> str:
    """What is wrong with a link that leads nowhere; nothing if the path is anything else."""
    if not os.path.islink(path):
        return ""
    try:
        os.stat(path)
    except OSError as error:
        return f"is a link to {shown(os.readlink(path))} ({error.strerror})"
    return ""


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise DamagedDataError(f"{shown(folder)} is a link back to a folder that it lies in; remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.is_symlink() and (reason := broken_link(entry.path)):
                if suffix in SUFFIXES or not suffix:
                    yield _entry(prefix + entry.name, entry.stat(follow_symlinks=False), reason)
            elif entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            elif suffix in SUFFIXES:
                status = entry.stat()
                reason = "" if stat.S_ISREG(status.st_mode) else "is a pipe, a socket or a device"
                yield _entry(prefix + entry.name, status, reason)


def _entry(path: str, status: os.stat_result, missing: str) -> Entry:
    return Entry(path, status.st_size, status.st_mtime_ns, missing)
