"""ImageNet (ILSVRC 2012), all of it or some of its classes, as folders named by its codes for classes."""

from pathlib import Path

from supermask.data.errors import missing
from supermask.data.registry import register_folder

#: Folders that it is usually unpacked to; the last two as it comes from Kaggle.
_FOLDERS = (
    *("imagenet", "imagenet1k", "imagenet-1k", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
    "imagenet-object-localization-challenge/ILSVRC/Data/CLS-LOC",
)


@register_folder("imagenet")
def find_imagenet(root: Path) -> Path:
    """Return the first of the usual folders in the root that has a training split.

    The validation split has class folders, or is read as it is published: see `published_labels`.

    Raises:
        MissingDataError: There is none.
    """
    places = [root / folder for folder in _FOLDERS]
    for place in places:
        if (place / "train").is_dir():
            return place
    remedy = (
        "unpack it to train/, one folder for each class code such as n01440764, and val/, likewise or with "
        "all images in it and LOC_val_solution.csv or the development kit beside it"
    )
    raise missing("imagenet", places, remedy)
