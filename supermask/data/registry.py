"""Names of data sets and the functions that read them."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from supermask.data.dataset import Dataset
from supermask.data.errors import MissingDataError, UnknownDataError
from supermask.data.folder import EVERYTHING, load_folder
from supermask.data.read_ahead import available_memory
from supermask.data.selection import Selection, check_pixels
from supermask.suggest import ending

#: Called with the root folder and the wanted image size (None: as the set has it), and, if it keeps a cache,
#: with the folder of caches (None: the usual one).
Reader = Callable[..., Dataset]
ReaderT = TypeVar("ReaderT", bound=Reader)

#: The environment variable that names the root folder.
ROOT_VARIABLE = "SUPERMASK_DATA"
_DEFAULT_ROOT = "data"

_READERS: dict[str, Reader] = {}
_CACHED: set[str] = set()

#: Called with the root folder; returns a folder of images.
Finder = Callable[[Path], Path]


@dataclass(frozen=True)
class _Folder:
    find: Finder
    titles: Mapping[str, str]


_FOLDERS: dict[str, _Folder] = {}


def register_data(name: str, *, cached: bool = False) -> Callable[[ReaderT], ReaderT]:
    """Make a data set available to ``load_data`` under a name.

    The reader takes the root folder and the wanted image size. It may leave the size to
    ``load_data``, which resizes what comes out, and heeds it only where that saves memory.

    Args:
        name: Without a path separator, such as ``"mnist"``.
        cached: Whether the reader keeps decoded images, and takes the folder of caches as third argument.

    Returns:
        A decorator that returns the reader unchanged.

    Raises:
        ValueError: The name is taken or looks like a path.
    """
    _check_name(name)

    def register(reader: ReaderT) -> ReaderT:
        _add(_READERS, name, reader)
        if cached:
            _CACHED.add(name)
        return reader

    return register


def register_folder(
    name: str, titles: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Finder], Finder]:
    """Make a folder of images in the root available to ``load_data`` under a name.

    Args:
        name: As for `register_data`.
        titles: Names of class folders and what to call these classes.

    Returns:
        A decorator of a function that finds the folder in the root, which returns it unchanged.

    Raises:
        ValueError: The name is taken or looks like a path.
    """
    _check_name(name)

    def register(find: Finder) -> Finder:
        _add(_FOLDERS, name, _Folder(find, titles))
        return find

    return register


def _check_name(name: str) -> None:
    if not name or "/" in name or os.sep in name:
        raise ValueError(f"a data set's name has no path separator, and {name!r} is no such name")


def _add(table: dict[str, Any], name: str, entry: Any) -> None:
    if name in table:
        raise ValueError(f"the data set {name!r} is already registered; choose another name")
    table[name] = entry


def list_data() -> list[str]:
    """Return the names of the registered data sets."""
    return sorted({*_READERS, *_FOLDERS})


def load_data(
    name: str,
    root: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    *,
    selection: Selection = EVERYTHING,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a data set, into memory or, for a folder of images, into a file mapped into memory.

    Nothing is downloaded.

    Args:
        name: A registered name (``list_data()``), or a folder of images: a path, or a folder inside
            the root, that has ``train/`` and one of ``test/``, ``val/`` and ``validation/``, each
            with one folder of images for each class.
        root: The folder that holds the data sets; by default what the environment variable
            SUPERMASK_DATA names, else ``data`` in the working directory.
        image_size: Height and width to bring the images to; by default they stay as they are.
        selection: What is taken of a folder of images, and how it is stored.
        cache: Where decoded images of folders are kept; by default what the environment variable
            SUPERMASK_CACHE names, else ``supermask`` in the user's folder for caches.

    Raises:
        UnknownDataError: No data set has that name.
        MissingDataError: Its files are not there, or memory lacks for its images in that size.
        DamagedDataError: Its files are not what they should be.
        ValueError: ``image_size`` is not a positive number or above the stored size, or there is a selection
            from what is no folder.
    """
    check_pixels(image_size, "image_size")
    base = Path(root or os.environ.get(ROOT_VARIABLE) or _DEFAULT_ROOT).expanduser()
    reader = _READERS.get(name)
    if reader is None:
        folder = _FOLDERS.get(name)
        path = folder.find(base) if folder else _find_folder(name, base)
        titles = folder.titles if folder else None
        name = name if folder else Path(name).name
        return load_folder(path, image_size, name=name, selection=selection, cache=cache, titles=titles)
    if selection != EVERYTHING:
        raise MissingDataError(
            f"{name!r} is no folder of images, and only from one can classes, a fraction or a stored size be "
            "chosen; leave these at their defaults"
        )
    dataset = reader(base, image_size, cache) if name in _CACHED else reader(base, image_size)
    if image_size is None or image_size == dataset.image_size:
        return dataset
    _check_room(dataset, image_size)
    return dataset.resized(image_size)


def _check_room(dataset: Dataset, image_size: int) -> None:
    """Refuse images that do not fit into memory once they are made larger."""
    count = len(dataset.train) + len(dataset.test)
    needed, free = count * dataset.in_channels * image_size**2, available_memory()
    if needed > free:
        raise MissingDataError(
            f"the {count} images of {dataset.name!r} take {needed / 2**30:.1f} GiB at image_size="
            f"{image_size}, and {free / 2**30:.1f} GiB of memory are free; take a smaller image_size"
        )


def _find_folder(name: str, base: Path) -> Path:
    candidates = [Path(name).expanduser(), base / name]
    if name:
        for path in candidates:
            if path.is_dir():
                return path.resolve()
    if len(Path(name).parts) > 1:
        places = ", ".join(str(path) for path in candidates)
        raise MissingDataError(
            f"there is no folder of images {name!r}. Looked for: {places}. Give the path of a folder "
            f"with train/ and test/, or one of the names {', '.join(list_data())}"
        )
    raise UnknownDataError(
        f"there is no data set {name!r}, and no folder of that name here or in {base}. Give one of "
        f"{', '.join(list_data())}, or the path of a folder with train/ and test/{ending(name, list_data())}"
    )


def describe_data() -> dict[str, str]:
    """Name → the first sentence about the module of each registered data set."""
    found = {**_READERS, **{name: folder.find for name, folder in _FOLDERS.items()}}
    return {name: _first_line(sys.modules[found[name].__module__].__doc__) for name in list_data()}


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip(".")
