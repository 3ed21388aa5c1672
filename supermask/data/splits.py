"""A split of a folder of images: its classes, and the files of each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from supermask.data.entries import SUFFIXES, Entry, broken_link, image_entries, name_of, shown
from supermask.data.errors import DamagedDataError
from supermask.data.published_labels import HINT, published_labels

_SHOWN = 5


@dataclass(frozen=True)
class Split:
    """A folder of images whose classes are known.

    Attributes:
        path: The folder.
        folders: Class → its folder, for classes that are folders.
        listed: Class → its images, for images that lie in one folder.
    """

    path: Path
    folders: Mapping[str, Path]
    listed: Mapping[str, Sequence[Entry]]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted(self.folders or self.listed)

    def images(self, name: str) -> list[Entry]:
        """The images of a class, with paths below the split.

        Raises:
            DamagedDataError: There are none, or the folder of the class is not there.
        """
        if name in self.listed:
            return list(self.listed[name])
        folder = self.folders[name]
        if reason := broken_link(str(folder)):
            raise DamagedDataError(f"{shown(folder)} {reason}; fetch what it names, or remove the link")
        found = image_entries(str(folder))
        if not found:
            raise DamagedDataError(
                f"the class folder {folder} has no images ({' '.join(sorted(SUFFIXES))}); fill it, "
                "or remove it from every split"
            )
        return [Entry(f"{folder.name}/{e.path}", e.size, e.changed, e.missing) for e in found]


def open_split(path: Path) -> Split:
    """Find the classes of a split: its folders, or what ImageNet's published labels say.

    Raises:
        DamagedDataError: There are neither, or the labels do not fit the images.
        MissingDataError: There are labels, and nothing that says what they mean.
    """
    if folders := class_folders(path):
        return Split(path, folders, {})
    images = image_entries(str(path))
    labels = published_labels(path.parent) if images else None
    if labels is None:
        raise DamagedDataError(_without_classes(path, images))
    return Split(path, {}, _sorted_into_classes(path, images, labels))


def class_folders(path: Path) -> dict[str, Path]:
    """Class → its folder. A link that leads nowhere counts, and is refused when its images are wanted.

    Raises:
        DamagedDataError: A name is no UTF-8, or two mean the same.
    """
    folders = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            lost = entry.is_symlink() and not PurePath(entry.name).suffix and broken_link(entry.path)
            if lost or entry.is_dir():
                name = name_of(Path(entry.path))
                if name in folders:
                    raise DamagedDataError(
                        f"{path} has two folders whose names look the same, {name!r} with its accents parted "
                        "from their letters and not; put the images of both into one"
                    )
                folders[name] = path / entry.name
    return folders


def _without_classes(path: Path, images: Sequence[Entry]) -> str:
    if not images:
        return (
            f"{path} has no class folders; put the images of each class into a folder of its own "
            f"there, such as {path / 'cat'}"
        )
    return (
        f"{path} has no class folders, and {len(images)} images of which nothing says what class they are. "
        f"If they are ImageNet's validation images, {HINT}"
    )


def _sorted_into_classes(
    path: Path, images: Sequence[Entry], labels: Mapping[str, str]
) -> dict[str, list[Entry]]:
    """Class → its images, of one folder; a label without an image counts as a missing image."""
    by_name = {PurePath(entry.path).stem: entry for entry in images}
    if strange := sorted(set(by_name) - set(labels)):
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise DamagedDataError(
            f"{path} has images that ImageNet's published labels do not name: "
            f"{', '.join(map(shown, strange[:_SHOWN]))}{more}. Remove them, or sort the images into one "
            "folder for each class"
        )
    classes: dict[str, list[Entry]] = {}
    for name in sorted(labels):
        entry = by_name.get(name) or Entry(f"{name}.JPEG", missing="is not there")
        classes.setdefault(labels[name], []).append(entry)
    return classes
