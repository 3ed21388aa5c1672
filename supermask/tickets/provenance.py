"""What a ticket records about its making: how its network is built, and by which versions."""

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from supermask.io import is_text
from supermask.models.registry import FACTORY_ATTRIBUTE
from supermask.models.structure import changes, structure_of
from supermask.weights.names import parameters_of
from supermask.weights.notices import ChangedNetworkWarning, tell

MAX_DEPTH = 20
"""Of lists and dictionaries inside each other."""


def factory_of(model: nn.Module) -> dict[str, Any] | None:
    """How to build `model` again: what `create_model` recorded, or what timm did, checked by rebuilding.

    Warns:
        ChangedNetworkWarning: The network is not what `create_model` built any more; None is returned.
    """
    recorded = getattr(model, FACTORY_ATTRIBUTE, None)
    if isinstance(recorded, dict):
        altered = changes(model)
        if not altered:
            return recorded
        more = " …" * (len(altered) > 3)
        tell(
            f"the network was changed after create_model: {'; '.join(altered[:3])}{more}. Its ticket does "
            "not say how it is built: load it by sm.Ticket.load(path).apply(model) on a network changed "
            "likewise, or give factory= to Ticket.from_model",
            ChangedNetworkWarning,
        )
        return None
    config = getattr(model, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    classes = getattr(model, "num_classes", None)
    if not architecture or not isinstance(classes, int):
        return None
    return _timm_factory(model, architecture, classes)


def versions(factory: Mapping[str, Any] | None) -> dict[str, str]:
    """Versions that made a ticket; the structure of an external network depends on its library's."""
    packages = ["supermask", "torch"]
    library = str((factory or {}).get("name", "")).partition("/")[0]
    if library in ("timm", "torchvision"):
        packages.append(library)
    return {package: version(package) for package in packages}


def plain_json(value: Any, what: str, depth: int = 0) -> Any:
    """A copy of `value` if JSON can hold it and gives it back the same; tuples become lists.

    Raises:
        ValueError: It holds something else, such as NaN, a NumPy scalar or a key that is no text; the message
            begins with `what`.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{what} is nested more than {MAX_DEPTH} deep; make it flatter")
    if isinstance(value, Mapping):
        return {
            _plain_text(key, f"a key of {what}"): plain_json(item, f"{what}[{key!r:.40}]", depth + 1)
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return [plain_json(item, f"{what}[{index}]", depth + 1) for index, item in enumerate(value)]
    if value is None or type(value) is bool:
        return value
    if type(value) is int and abs(value) < 1 << 64:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is str:
        return _plain_text(value, what)
    # A number of thousands of digits cannot be printed.
    shown = "beyond 64 bits" if type(value) is int else f"{value!r:.80} ({type(value).__name__})"
    raise ValueError(
        f"{what} is {shown}, which JSON cannot hold; give finite numbers, text, true, false, None, lists and "
        "dictionaries of those (a NumPy or torch scalar's .item() is one)"
    )


def _plain_text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise ValueError(f"{what} is {value!r:.80} ({type(value).__name__}); keys and names are text")
    if not is_text(value):
        raise ValueError(f"{what} is {value!r:.80}, which UTF-8 cannot write; give other text")
    return value


def _timm_factory(model: nn.Module, architecture: str, classes: int) -> dict[str, Any] | None:
    """timm keeps the name and not the arguments; trust them only if the same structure comes out."""
    import timm

    try:
        with torch.device("meta"):
            twin = timm.create_model(architecture, num_classes=classes)
    except Exception:
        return None
    shapes = [[(name, p.shape) for name, p in parameters_of(m).items()] for m in (model, twin)]
    if shapes[0] != shapes[1] or structure_of(model) != structure_of(twin):
        return None
    size = model.pretrained_cfg["input_size"]  # type: ignore[index]
    return {
        "name": f"timm/{architecture}",
        "args": {"num_classes": classes, "in_channels": size[0], "image_size": size[-1]},
    }
