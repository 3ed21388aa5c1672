"""Names of a package that import their module when they are first asked for.

`import supermask` must not import torch: what a command line asks most often, such as help, needs no tensor.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec


def lazy(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
        package: Its name.
        names: Name → the module below the package that it comes from.

    Returns:
        Both. Subpackages and modules of the package are found, too.
    """

    def get(name: str) -> object:
        if name in names:
            value = getattr(import_module(f"{package}.{names[name]}"), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, listed
