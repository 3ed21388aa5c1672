"""Data sets by name, held as bytes in memory or mapped there, and a loader that resumes from a step number.

``load_data(name)`` returns a ``Dataset``; ``Loader`` makes training batches of its images and
``iterate_eval`` walks through them once. ``@register_data(name)`` adds a set. Nothing is ever
downloaded.

Every module of this package is imported here, so that a new data set is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.data.dataset import Dataset, Images
from supermask.data.errors import (
    DamagedDataError,
    DataError,
    MissingDataError,
    UnknownDataError,
)
from supermask.data.loader import Loader, iterate_eval
from supermask.data.registry import list_data, load_data, register_data, register_folder
from supermask.data.selection import Selection

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DamagedDataError",
    "DataError",
    "Dataset",
    "Images",
    "Loader",
    "MissingDataError",
    "Selection",
    "UnknownDataError",
    "iterate_eval",
    "list_data",
    "load_data",
    "register_data",
    "register_folder",
]
