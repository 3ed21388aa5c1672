"""Imagenette, ten easy classes of ImageNet, as the folders that its authors publish."""

from pathlib import Path

from supermask.data.errors import MissingDataError, missing
from supermask.data.registry import register_folder

#: ImageNet's names for its own codes; the folders are named by code.
_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@register_folder("imagenette", titles=_CLASSES)
def find_imagenette(root: Path) -> Path:
    """Return the one folder in the root whose name starts with ``imagenette``.

    The published sets have images of mixed shapes and need an image size.

    Raises:
        MissingDataError: There is no such folder, or there are several.
    """
    found = sorted(path for path in root.glob("imagenette*") if path.is_dir())
    if not found:
        raise missing(
            "imagenette", [root / "imagenette*"], "unpack imagenette2-160.tgz of fast.ai's Imagenette"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise MissingDataError(
            f"{root} has several folders for 'imagenette': {names}. Give one of these names instead"
        )
    return found[0]
