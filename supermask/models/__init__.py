"""The networks of the papers by name; every other one comes from timm and torchvision by name.

``create_model(name, ...)`` builds an untrained network, ``list_models()`` says which names there
are, and ``@register_model(name)`` adds one. A built network carries ``supermask_factory``, a
small JSON value from which ``build`` makes the same structure again; that is how a ticket file
can name its network without holding any code. A network with layers that follow from data, and not
from training, has a method ``look_at(images)``: commands show it training images, normalized, before
anything is trained.

Every module of this package is imported here, so that a new family is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.models.binary import binarize_activations
from supermask.models.factory import build, create_model, list_models
from supermask.models.parallel import merged, with_parallel_weights
from supermask.models.registry import UnknownModelError, register_model

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "UnknownModelError",
    "binarize_activations",
    "build",
    "create_model",
    "list_models",
    "merged",
    "register_model",
    "with_parallel_weights",
]
