"""Imagenette, ten easy classes of ImageNet, as the folders that its authors publish."""

from dataclasses import replace
from pathlib import Path

from supermask.data.dataset import Dataset
from supermask.data.errors import MissingDataError, missing
from supermask.data.folder import load_folder
from supermask.data.registry import register_data

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


@register_data("imagenette")
def load_imagenette(root: Path, image_size: int | None) -> Dataset:
    """Read the one folder in the root whose name starts with ``imagenette``.

    Args:
        root: The folder that holds the data sets.
        image_size: As ``load_folder`` takes it; the published sets have images of mixed shapes and
            need it.

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
    dataset = load_folder(found[0], image_size, name="imagenette")
    return replace(dataset, classes=tuple(_CLASSES.get(code, code) for code in dataset.classes))
