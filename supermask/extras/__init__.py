"""Optional packages: which extra brings which, and the error that names the command to install it.

The core needs torch, NumPy, safetensors and einops. Everything else is imported where it is used, through
`load`, or asked for at the door of the room that needs it, through `require`.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

EXTRAS = {
    "cli": ("rich", "yaml"),
    "data": ("filelock", "PIL", "rich", "sklearn", "torchvision"),
    "hub": ("huggingface_hub",),
    "models": ("timm", "torchvision"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "report": ("jinja2", "matplotlib"),
    "structured": ("torch_pruning",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Extra → the modules that it brings."""


class MissingExtraError(ImportError):
    """A package is not installed that comes with an extra of this library; the message has the command."""


def require(extra: str) -> None:
    """Refuse to go on without the modules of an extra; none of them is imported.

    Raises:
        MissingExtraError: One is not installed.
    """
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise missing(module, extra)


def load(module: str, extra: str) -> ModuleType:
    """Import a module that comes with an extra.

    Raises:
        MissingExtraError: It is not installed.
    """
    top = module.partition(".")[0]
    try:
        importlib.import_module(top)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise  # it is there, and something that it needs is not
        raise missing(top, extra) from None
    return importlib.import_module(module)


class _Lazy:
    """Stands for a module, which is imported when something is first taken from it."""

    def __init__(self, module: str, extra: str) -> None:
        self._named = module, extra

    def __getattr__(self, name: str) -> Any:
        return getattr(load(*self._named), name)


def lazily(module: str, extra: str) -> Any:
    """A stand-in for a module that comes with an extra; `load` is called when it is first used."""
    return _Lazy(module, extra)


def missing(module: str, extra: str) -> MissingExtraError:
    """The error for a module that is not there."""
    return MissingExtraError(
        f"this needs {module}, which is not installed; it comes with: pip install 'supermask[{extra}]'",
        name=module,
    )
