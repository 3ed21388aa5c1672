"""What a ticket records about its making: how its network is built, and by which versions."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import nn


def factory_of(model: nn.Module) -> dict[str, Any] | None:
    """How to build `model` again: what `create_model` recorded, or what timm did, checked by rebuilding."""
    recorded = getattr(model, "supermask_factory", None)
    if isinstance(recorded, dict):
        return recorded
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


def _timm_factory(model: nn.Module, architecture: str, classes: int) -> dict[str, Any] | None:
    """timm keeps the name and not the arguments; trust them only if the same structure comes out."""
    import timm

    try:
        with torch.device("meta"):
            twin = timm.create_model(architecture, num_classes=classes)
    except Exception:
        return None
    same = repr(twin) == repr(model) and [(n, p.shape) for n, p in twin.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]
    if not same:
        return None
    size = model.pretrained_cfg["input_size"]  # type: ignore[index]
    return {
        "name": f"timm/{architecture}",
        "args": {"num_classes": classes, "in_channels": size[0], "image_size": size[-1]},
    }
