"""What the page of each command says, one module each.

Every module of this package is imported here, so that the page of a new experiment is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.report.pages.registry import PAGES, author_of, register_page

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["PAGES", "author_of", "register_page"]
