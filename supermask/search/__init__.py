"""Search algorithms, one file each: optimizers over a shared base that move scores instead of weights.

Every module of this package is imported here, so that a new algorithm is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.search.base import Search
from supermask.search.construction import BASES
from supermask.search.edge_popup import EdgePopup
from supermask.search.factory import create_search, list_searches
from supermask.search.registry import SEARCHES, register_search

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BASES",
    "SEARCHES",
    "EdgePopup",
    "Search",
    "create_search",
    "list_searches",
    "register_search",
]
