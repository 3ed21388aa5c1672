"""Build a network by name, and build it again from what it remembers of that."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn

from supermask.models import external
from supermask.models.arguments import (
    Value,
    check_arguments,
    check_like_default,
    check_name,
    check_positive_integer,
)
from supermask.models.binary import OPTION as BINARY
from supermask.models.binary import binarize_activations
from supermask.models.parallel import OPTION as PARALLEL
from supermask.models.parallel import with_parallel_weights
from supermask.models.registry import (
    FACTORY_ATTRIBUTE,
    Factory,
    UnknownModelError,
    option_defaults,
    registered,
    registered_names,
)
from supermask.models.structure import record_structure
from supermask.suggest import ending


def create_model(
    name: str,
    /,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    **options: Any,
) -> nn.Module:
    """Build an untrained network.

    The name is one of the library's own (``list_models()``), ``timm/<name>``,
    ``torchvision/<name>``, or a bare name, which is looked for in that order. Parameters have
    torch's default init. The network carries the attribute ``supermask_factory``, ``{"name": ...,
    "args": {...}}``, with which ``create_model(f["name"], **f["args"])`` and ``build(f)`` make
    the same structure again. The ticket of a network whose modules were changed since (another
    activation, stride, dropout) does not claim it.

    Args:
        name: The network's name.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        **options: Options of the network: numbers, text, bools and short lists of those. Of the
            library's own: ``width`` (multiplier of the hidden widths), ``bias`` (LeNet, Conv-n),
            ``affine`` (batch norms have a scale and a shift; ResNet, VGG, Conv-n), ``batch_norm``
            (VGG, Conv-n), ``elu`` (ELUs for ReLUs; Conv-n), ``shift`` (batch norms have a shift;
            airbench), ``logit_scale`` (factor of the outputs; airbench). Of every network:
            ``binary_activations``, which makes each activation the sign of its input, and
            ``parallel_weights``, from 2 to 64: so many weights for each connection of linear layers
            and convolutions, whose sum counts.

    Raises:
        UnknownModelError: No network has that name.
        ValueError: An argument does not fit or would load trained weights.
    """
    check_name(name)
    shape = {
        "num_classes": check_positive_integer("num_classes", num_classes),
        "in_channels": check_positive_integer("in_channels", in_channels),
        "image_size": check_positive_integer("image_size", image_size),
    }
    checked = check_arguments(options)
    binary = checked.pop(BINARY, False)
    check_like_default(name, BINARY, binary, False)
    parallel = checked.pop(PARALLEL, 1)
    factory = registered(name)
    if factory is not None:
        full_name = name
        # Defaults are written down too: a file outlives a change of them.
        checked = _complete(name, factory, checked)
        model = _construct(full_name, {**shape, **checked}, factory, {**shape, **checked})
    else:
        full_name = external.resolve(name) or _unknown(name)
        arguments: dict[str, Any] = {"full_name": full_name, **shape, "options": checked}
        model = _construct(full_name, {**shape, **checked}, external.build_external, arguments)
    setattr(model, FACTORY_ATTRIBUTE, {"name": full_name, "args": {**shape, **checked}})
    record_structure(model)
    if parallel != 1 or isinstance(parallel, bool):
        with_parallel_weights(model, parallel)  # type: ignore[arg-type]  # checks it
    return binarize_activations(model) if binary else model


def build(factory: Mapping[str, object]) -> nn.Module:
    """Build a network again from a ``supermask_factory`` value that was read from a file.

    The value is not trusted: nothing but a name and plain, bounded arguments is accepted, and no
    file or network is read. What it describes may still be large; build under
    ``torch.device("meta")`` and compare shapes before memory is spent on it. Of all the networks
    here only torchvision's RegNets, which compute their widths with tensors, cannot be built so.

    Args:
        factory: A mapping with exactly ``name`` and ``args``.

    Raises:
        ValueError: It is anything else, or no such network can be built.
    """
    if not isinstance(factory, Mapping) or set(factory) != {"name", "args"}:
        raise ValueError(
            f"a model factory has exactly the keys 'name' and 'args', and this is {factory!r:.200}"
            "; the file is damaged or was written by something else"
        )
    name, arguments = check_name(factory["name"]), factory["args"]
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"the arguments of {name!r} are a {type(arguments).__name__}, not a mapping from names "
            "to values; the file is damaged or was written by something else"
        )
    return create_model(name, **check_arguments(arguments))  # type: ignore[arg-type]


def list_models(family: str | None = None) -> list[str]:
    """Return the names that ``create_model`` takes.

    Args:
        family: None for all of the library's own networks; ``"airbench"``, ``"lenet"``, ``"conv"``,
            ``"resnet"``, ``"folded"`` or ``"vgg"`` for one family (the part before the first hyphen);
            ``"timm"`` or ``"torchvision"`` for theirs.

    Raises:
        ValueError: There is no such family.
    """
    if family == external.TIMM:
        return [f"{external.TIMM}/{name}" for name in external.timm_names()]
    if family == external.TORCHVISION:
        return [f"{external.TORCHVISION}/{name}" for name in external.torchvision_names()]
    names = registered_names()
    if family is None:
        return names
    chosen = [name for name in names if name.split("-")[0] == family]
    if not chosen:
        families = sorted({name.split("-")[0] for name in names})
        raise ValueError(
            f"there is no model family {family!r}; choose from {', '.join(families)}, "
            f"{external.TIMM}, {external.TORCHVISION}"
        )
    return chosen


def _complete(name: str, factory: Factory, options: Mapping[str, Value]) -> dict[str, Value]:
    defaults = option_defaults(factory)
    for option, value in options.items():
        if option not in defaults:
            raise ValueError(
                f"{name} has no option {option!r} (given {value!r}); it takes {', '.join(defaults) or 'none'}"
            )
        check_like_default(name, option, value, defaults[option])
    return {**check_arguments(defaults), **options}


def _construct(
    full_name: str,
    described: Mapping[str, Value],
    make: Callable[..., nn.Module],
    arguments: Mapping[str, Any],
) -> nn.Module:
    try:
        return make(**arguments)
    except Exception as error:
        # Whatever a third-party constructor raises, the caller learns which call it was about.
        text = ", ".join(f"{key}={value!r}" for key, value in described.items())
        reason = str(error) or type(error).__name__
        raise ValueError(f"{full_name} cannot be built with {text}: {reason}") from error


def _unknown(name: str) -> NoReturn:
    source, _, rest = name.rpartition("/")
    if source in (external.TIMM, external.TORCHVISION):
        wanted, candidates = name, list_models(source)
    else:
        theirs = {*external.timm_names(), *external.torchvision_names()}
        wanted, candidates = rest.lower(), [*registered_names(), *sorted(theirs)]
    raise UnknownModelError(name, ending(wanted, candidates))
