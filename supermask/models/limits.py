"""A limit on what is built: the arguments of a network may come from a stranger's file."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks


class TooLargeError(ValueError):
    """A network has more parts, or larger ones, than it was to have."""


@contextmanager
def limited_construction(parts: int, nbytes: int, calls: int | None = None) -> Iterator[None]:
    """Refuse, inside the context and in this thread, to build more than so much.

    Modules, parameters and buffers are counted as they are registered, so that a network with a million
    layers stops at the first that is too many, on the meta device as well, where layers cost time only.

    Args:
        parts: Most modules, parameters and buffers together, over all that is built in the context.
        nbytes: Most bytes of parameters, and most bytes of buffers.
        calls: Most calls and returns of functions, for constructors that compute long before they register
            anything; None does not count them. They are not counted under a profiler either.

    Raises:
        TooLargeError: In the context, when a part is one too many or takes one byte too many.
    """
    thread, count, held = threading.get_ident(), 0, {"parameters": 0, "buffers": 0}

    def register(kind: str | None, part: Any) -> None:
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > parts:
            raise TooLargeError(f"it has more than {parts} modules, parameters and buffers")
        if kind and isinstance(part, Tensor):
            held[kind] += part.numel() * part.element_size()
            if held[kind] > nbytes:
                raise TooLargeError(f"its {kind} take more than {nbytes} bytes")

    def on_module(_: nn.Module, __: str, part: Any) -> None:
        register(None, part)

    def on_parameter(_: nn.Module, __: str, part: Any) -> None:
        register("parameters", part)

    def on_buffer(_: nn.Module, __: str, part: Any) -> None:
        register("buffers", part)

    handles = [
        hooks.register_module_module_registration_hook(on_module),
        hooks.register_module_parameter_registration_hook(on_parameter),
        hooks.register_module_buffer_registration_hook(on_buffer),
    ]
    try:
        with _limited_calls(calls) if calls and sys.getprofile() is None else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _limited_calls(limit: int) -> Iterator[None]:
    left, modules = limit, len(sys.modules)

    def count(*_: Any) -> None:
        nonlocal left, modules
        left -= 1
        if left < 0 and len(sys.modules) > modules:
            # torch imports what it needs when it first needs it (a million calls for torch.eye on the meta
            # device), which is no work of the constructor's; there are only so many modules.
            left, modules = limit, len(sys.modules)
        if left < 0:
            raise TooLargeError(f"it takes more than {limit} calls of functions to build")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
