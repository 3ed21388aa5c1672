"""Names of the library's own networks and the factories behind them."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

Factory = Callable[..., nn.Module]
FactoryT = TypeVar("FactoryT", bound=Factory)

#: The attribute of a built network that holds its name and arguments.
FACTORY_ATTRIBUTE = "supermask_factory"

#: What every factory is told; its further parameters are its options.
SHAPE_ARGUMENTS = ("num_classes", "in_channels", "image_size")

_FACTORIES: dict[str, Factory] = {}


class UnknownModelError(ValueError):
    """No network answers to the name.

    Attributes:
        name: The name.
        hint: What was perhaps meant, for the end of a message.
    """

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(name, hint)
        self.name, self.hint = name, hint

    def __str__(self) -> str:
        return (
            f"there is no model {self.name!r}. list_models() gives the library's own names, "
            f"list_models('timm') and list_models('torchvision') those of the two libraries{self.hint}"
        )


def register_model(name: str) -> Callable[[FactoryT], FactoryT]:
    """Make a factory available to ``create_model`` under a name.

    The factory takes ``num_classes``, ``in_channels`` and ``image_size`` and may take options of
    its own, each with a default that is a JSON scalar. The part of the name before the first
    hyphen is its family.

    Args:
        name: Lower-case letters, digits and hyphens, such as ``"lenet-300-100"``.

    Returns:
        A decorator that returns the factory unchanged.

    Raises:
        ValueError: The name is malformed or taken, or the factory's signature does not fit.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(
            f"a model name is lower-case letters, digits and single hyphens, and {name!r} is not; "
            "choose a name like 'lenet-300-100'"
        )

    def register(factory: FactoryT) -> FactoryT:
        if name in _FACTORIES:
            raise ValueError(f"the model name {name!r} is already registered; choose another")
        parameters = inspect.signature(factory).parameters
        lacking = [given for given in SHAPE_ARGUMENTS if given not in parameters]
        if lacking:
            raise ValueError(f"the factory of {name!r} must also take {', '.join(lacking)}")
        for option, default in option_defaults(factory).items():
            if default is inspect.Parameter.empty:
                raise ValueError(f"option {option!r} of {name!r} needs a default value")
        _FACTORIES[name] = factory
        return factory

    return register


def registered(name: str) -> Factory | None:
    """Return the factory registered under a name, or None."""
    return _FACTORIES.get(name)


def registered_names() -> list[str]:
    """Return all registered names, numbers inside them in numeric order."""
    return sorted(_FACTORIES, key=_natural_order)


def option_defaults(factory: Factory) -> dict[str, object]:
    """Return a factory's own options and their defaults."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in SHAPE_ARGUMENTS}


def _natural_order(name: str) -> list[tuple[int, str]]:
    # resnet-20 before resnet-110: digits compare as numbers, everything else as text.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def describe_models() -> dict[str, str]:
    """Name → the first line about each registered network, or else about the module of its factory."""
    found = {}
    for name in registered_names():
        factory = _FACTORIES[name]
        text = factory.__doc__ or sys.modules[factory.__module__].__doc__ or ""
        found[name] = text.strip().partition("\n")[0].rstrip(".")
    return found
