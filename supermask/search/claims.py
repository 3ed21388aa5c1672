"""Which search a parameter belongs to, so that two searches on one model do not undo each other's work."""

import gc
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_OWNERS: Any = WeakTensorKeyDictionary()
"""Parameter → weak reference to the search that writes it."""


def claim(search: Any, parameters: Iterable[Tensor]) -> None:
    """Note that `search` moves `parameters` from now on."""
    reference = weakref.ref(search)
    for parameter in parameters:
        _OWNERS[parameter] = reference


def is_claimed(parameter: Tensor) -> bool:
    """Whether a living search moves a parameter."""
    return _owner(parameter) is not None


def check_free(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that hold what another search, which may still step, has written.

    A search whose parameters were drawn or loaded anew since its last step has no hold on them any more.

    Raises:
        ValueError: Such a parameter, by name.
    """
    for name, parameter in parameters.items():
        if _in_place(parameter):
            gc.collect()  # a search that nobody has any more may live on in a cycle with its scheduler
            if _in_place(parameter):
                raise ValueError(
                    f"another search holds {name}, whose present values are those under its mask, and both "
                    "would write it in their steps. Leave the layer out of one of them with exclude=[…]; or "
                    "delete the first search and draw the weights again by randomize_"
                )


def check_owners(owners: Mapping[str, nn.Module], masked: Mapping[str, Tensor]) -> None:
    """Refuse to go on where a model has other parameters than those that a search writes.

    Args:
        owners: Name → module whose parameter it is.
        masked: Name → masked parameter.

    Raises:
        RuntimeError: A module has another one in its place, by name.
    """
    for name, module in owners.items():
        present = module._parameters.get(name.rpartition(".")[2])
        if present is None or masked.get(name, present) is not present:
            raise RuntimeError(
                f"{name} of the model is not the parameter that the search writes any more; "
                "load_state_dict(assign=True), fully_shard or the like replaced it. Load before making the "
                "search, and train whole weights in DistributedDataParallel instead of sharded ones"
            )


def _owner(parameter: Tensor) -> Any:
    reference = _OWNERS.get(parameter)
    return None if reference is None else reference()


@torch.no_grad()
def _in_place(parameter: Tensor) -> bool:
    """Whether a parameter has the values that a living search wrote into it."""
    search = _owner(parameter)
    if search is None:
        return False
    state = search.state.get(parameter, {})
    if "mask" not in state:
        return True  # a norm that it trains
    name = next(name for name, own in search.masked_parameters.items() if own is parameter)
    mask = state["mask"]
    standing = search.effective({name: mask for name, mask in search.mask.items()})[name]
    return torch.equal(parameter, torch.where(mask, standing, 0.0).to(parameter.dtype))
