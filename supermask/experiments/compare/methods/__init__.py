"""Methods of `compare`: each yields the rows it contributes for one seed; one module per family.

Every module of this package is imported here, so that a new method is one new function, and a new family
one new file. Every search of the registry is a method by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.experiments.compare.methods.registry import (
    METHODS,
    MethodNames,
    Rows,
    list_methods,
    register_method,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "MethodNames", "Rows", "list_methods", "register_method"]
