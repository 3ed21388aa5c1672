"""Networks of timm and torchvision, always untrained: nothing here reads a file or the network.

Both libraries take seconds to import and come with the extra `models`, so they are imported when first asked
for.
"""

import typing
from collections.abc import Mapping
from typing import Any

from torch import nn

from supermask import extras
from supermask.models.arguments import Value

TIMM = "timm"
TORCHVISION = "torchvision"

#: Of these two, the default in training returns a tuple with auxiliary logits, which no plain loop
#: expects, and the default init is slow and would be drawn again anyway.
_AUXILIARY_HEADS = {"googlenet", "inception_v3"}


def resolve(name: str) -> str | None:
    """Return the full name (``timm/...`` or ``torchvision/...``) that a name stands for, or None.

    A bare name is looked for in timm first.
    """
    source, slash, rest = name.partition("/")
    if not slash:
        source, rest = "", name
    if source in ("", TIMM) and _timm_has(rest):
        return f"{TIMM}/{rest}"
    if source in ("", TORCHVISION) and rest in torchvision_names():
        return f"{TORCHVISION}/{rest}"
    return None


def timm_names() -> list[str]:
    """Return the names that timm knows, without its prefix here."""
    return list(_timm().list_models())


def torchvision_names() -> list[str]:
    """Return torchvision's image classifiers.

    Its detection, segmentation and video networks are left out: they are not classifiers, and some
    download a backbone even when no weights are asked for.
    """
    models = _torchvision_models()
    return list(models.list_models(module=models))


def build_external(
    full_name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    options: Mapping[str, Value],
) -> nn.Module:
    """Build an untrained network of timm or torchvision.

    Args:
        full_name: What ``resolve`` returned.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images; torchvision's networks take three only.
        image_size: Height and width of the images; passed on to the networks whose structure
            depends on it.
        options: Further arguments, as the library names them.

    Raises:
        ValueError: torchvision is asked for other than three channels, or an option repeats what
            has a name of ours.
    """
    source, _, name = full_name.partition("/")
    for theirs, ours in (("in_chans", "in_channels"), ("img_size", "image_size")):
        if theirs in options:
            raise ValueError(f"{theirs} is called {ours} here; pass {ours}={options[theirs]!r}")
    if source == TIMM:
        return _build_timm(name, num_classes, in_channels, image_size, options)
    if in_channels != 3:
        raise ValueError(
            f"{full_name} takes images of 3 channels, and in_channels is {in_channels}; take a "
            "timm network, which adapts, or one of the library's own (list_models())"
        )
    return _build_torchvision(name, num_classes, image_size, options)


def _timm() -> Any:
    return extras.load("timm", "models")


def _torchvision_models() -> Any:
    return extras.load("torchvision.models", "models")


def _timm_has(name: str) -> bool:
    return bool(_timm().is_model(name))


def _build_timm(
    name: str, num_classes: int, in_channels: int, image_size: int, options: Mapping[str, Value]
) -> nn.Module:
    timm = _timm()
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, **options}
    # timm's own sign for an entry point that takes img_size; most convolutional networks raise on
    # it.
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = image_size
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


def _build_torchvision(
    name: str, num_classes: int, image_size: int, options: Mapping[str, Value]
) -> nn.Module:
    builder = _torchvision_models().get_model_builder(name)
    arguments: dict[str, Any] = {"num_classes": num_classes}
    # Vision transformers call it image_size, MaxViT input_size; the rest take any image.
    network = typing.get_type_hints(builder).get("return", nn.Module)
    taken = typing.get_type_hints(network.__init__)
    if "image_size" in taken:
        arguments["image_size"] = image_size
    if "input_size" in taken:
        arguments["input_size"] = (image_size, image_size)
    if name in _AUXILIARY_HEADS:
        arguments |= {"aux_logits": False, "init_weights": False}
    model: nn.Module = builder(weights=None, **{**arguments, **options})
    return model
