"""What a ticket records of its data, for `supermask eval`: a stranger's file chooses nothing that is read."""

import os
from typing import Any

from supermask.cli.flags import FlagError


def recorded_data(recorded: Any) -> str:
    """The data set that a ticket was made on; refused where that is a folder, which only a user may name."""
    from supermask.data import list_data

    if not isinstance(recorded, str):
        raise FlagError("--data is missing, and the ticket does not record the data set it was made on")
    if recorded not in list_data():
        raise FlagError(
            f"--data is missing: the ticket records {recorded[:200]!r}, which is no data set of the library, "
            "and a ticket alone does not choose the folder that is read; if you know it, give it by --data"
        )
    return recorded


def same_data(name: str, recorded: Any) -> bool:
    """Whether `name` is the data set that a ticket records."""
    if not isinstance(recorded, str) or "\0" in recorded:
        return False
    return name == recorded or os.path.realpath(name) == os.path.realpath(recorded)


_SELECTED = {"stored_size": int, "classes": list, "per_class_fraction": float, "allow_corrupt": bool}
"""What a ticket may record of a selection of images, and of what type."""


def recorded_selection(path: str, recorded: Any) -> dict[str, Any]:
    """What a ticket records of a selection, if it is that; the file may be a stranger's."""
    recorded = {} if recorded is None else recorded
    sound = isinstance(recorded, dict) and all(type(recorded[key]) is _SELECTED.get(key) for key in recorded)
    if not sound or not all(isinstance(name, str) for name in recorded.get("classes", ())):
        raise FlagError(
            f"{path} records a selection of images that is not understood; get the ticket again from its "
            "source, or evaluate it in Python: supermask.load(path)"
        )
    return dict(recorded)
