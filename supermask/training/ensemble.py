"""Several networks of one architecture trained as one program: seeds, or densities, together.

The parameters of the members are stacked, and one forward and one backward pass serve all of them (`vmap`
over `functional_call`, as in PyTorch's tutorial on model ensembling). The loss is the sum over members, so
that the gradient of each is its own, and elementwise rules such as SGD and Adam move the stack as they would
move each alone. A member's own parameters are views of the stack: it stays an ordinary network, to be
evaluated and made a ticket of at any moment. Results equal those of a training alone up to the rounding of
sums.

```python
members = [sm.randomize_(sm.create_model("lenet-300-100"), seed=seed) for seed in range(8)]
together = sm.Ensemble(members)
search = sm.EnsembleSearch(
    together, [sm.EdgePopup(m, density=0.3, lr=0.1, momentum=0.9, seed=s) for s, m in enumerate(members)]
)
for inputs, labels in batches:  # (8, B, 1, 28, 28) and (8, B): each member has batches of its own
    together.losses(inputs, labels).sum().backward()
    search.step()
    search.zero_grad()
tickets = [member.ticket() for member in search.members]
```

Weights are trained by any elementwise optimizer of `together.stack.parameters()`, and tickets by the same
under `sm.hold(optimizer, stack_named(masks), together.stack)`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.optim import Optimizer

from supermask.search import Search
from supermask.weights.names import check_module

Batches = Callable[[int], tuple[Tensor, Tensor]]


class Ensemble(nn.Module):
    """Networks that compute as one.

    Args:
        members: At least one network, all of one architecture on one device. From now on their parameters and
            buffers are views of the stack: change them in place, and move none to another device or type.

    Attributes:
        members: The networks.
        stack: A module with the members' names, whose tensors have a leading dimension for the members.
        loss_sums: Sum of each member's losses since somebody set it to zero, float64, (S,).

    Raises:
        TypeError: A member is no module.
        ValueError: There is none, they differ, or what they are cannot be stacked; see `obstacle`.
    """

    loss_sums: Tensor

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not len(members):
            raise ValueError("there is no member; give at least one network")
        for index, member in enumerate(members):
            if (reason := obstacle(member)) or (reason := _difference(members[0], member)):
                raise ValueError(f"member {index} cannot be trained together with others: {reason}")
        self.members = tuple(members)  # a tuple, which does not make them submodules
        self.stack = copy.deepcopy(members[0])
        pairs = [_stack_tensor(self.stack, name, members) for name in _names(members[0])]
        self._parameters_of = [pair for pair in pairs if isinstance(pair[0], nn.Parameter)]
        self._tensors = {**dict(self.stack.named_parameters()), **dict(self.stack.named_buffers())}
        self._layers = _chain(self.stack)
        self._call = vmap(self._one, randomness="different")
        device = next(iter(self._tensors.values())).device
        self.register_buffer("loss_sums", torch.zeros(len(members), dtype=torch.float64, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (S, B, …), the batch of each member → outputs (S, B, …)."""
        if (
            self._layers
            and inputs.dim() > 2
            and (inputs.dim() == 3 or isinstance(self._layers[0], nn.Flatten))
        ):
            return _along_chain(self._layers, inputs)
        return self._call(self._tensors, inputs)

    def losses(self, inputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of each member, (S,), for labels (S, B); also added to `loss_sums`."""
        outputs = self(inputs)
        each = F.cross_entropy(
            outputs.flatten(0, 1), labels.flatten(0, 1), reduction="none", label_smoothing=label_smoothing
        )
        losses = each.view(len(self.members), -1).mean(dim=1)
        self.loss_sums += losses.detach()
        return losses

    def share_gradients(self) -> None:
        """Let each member's `.grad` be its part of the stack's gradient."""
        for stacked, own in self._parameters_of:
            grads = (None,) * len(own) if stacked.grad is None else stacked.grad.unbind()
            for parameter, grad in zip(own, grads, strict=True):
                parameter.grad = grad

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the stack and of the members."""
        self.stack.zero_grad(set_to_none)
        if set_to_none:
            self.share_gradients()

    def _one(self, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.stack, tensors, (inputs,))


class EnsembleSearch(Optimizer):
    """The searches of members as one optimizer; each keeps its own density, seed and learning rate.

    Where all are edge-popup by plain SGD of the same options, one selection and one fused step serve all of
    them. Other searches step one after another; forward and backward are still made together.

    Args:
        together: The networks.
        searches: One search for each member, in the same order.

    Raises:
        ValueError: The searches are not those of the members, or one has a loss of its own.
    """

    def __init__(self, together: Ensemble, searches: Sequence[Search]) -> None:
        if [id(search.model) for search in searches] != [id(member) for member in together.members]:
            raise ValueError("give one search for each member, made on it, in the order of the members")
        if any(search.objective is not None for search in searches):
            raise ValueError(f"{searches[0].method} has a loss of its own; let it run alone")
        self.together, self.members = together, tuple(searches)
        super().__init__([group for search in searches for group in search.param_groups], {})
        rows = [search.threshold_hints for search in searches]
        self._hints = torch.cat(rows)
        for search, hints in zip(searches, self._hints.split([len(row) for row in rows]), strict=True):
            search.threshold_hints = hints  # a view, so that each finds and clears its own
        # A search stops the gradients of what nothing moves.
        for name, parameter in together.stack.named_parameters():
            parameter.requires_grad_(together.members[0].get_parameter(name).requires_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all scores by the stack's gradients; see `Search.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.together.share_gradients()
        for search in self.members:
            search.begin_step()
        fused = self.members[0].fused
        alike = fused is not None and all(search.fused is fused for search in self.members)
        if not (alike and fused and fused.step(self.members, self._hints)):
            for search in self.members:
                search.move()
        for search in self.members:
            search.end_step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all members."""
        self.together.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The `state_dict` of each search."""
        return {"members": [search.state_dict() for search in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit."""
        for search, state in zip(self.members, state_dict["members"], strict=True):
            search.load_state_dict(state)


def stack_named(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Masks or weights of the members, by name → the same of the stack.

    Raises:
        ValueError: The members do not have the same names.
    """
    if any(named.keys() != tensors[0].keys() for named in tensors):
        raise ValueError("the members have tensors of other names; give all of them the same layers")
    return {
        name: torch.stack([named[name].to(first.device) for named in tensors])
        for name, first in tensors[0].items()
    }


def stack_batches(members: Sequence[Batches]) -> Batches:
    """The batches of the members, each exactly what it is alone, as one: (S, B, …) and (S, B)."""

    def batches(step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = zip(*(member(step) for member in members), strict=True)
        return torch.stack(inputs), torch.stack(labels)

    return batches


def member_state(state: Mapping[str, Any], parameters: Sequence[Tensor], index: int) -> dict[str, Any]:
    """What the optimizer of one member alone would have as `state_dict`.

    Args:
        state: The `state_dict` of an optimizer of the stack's `parameters`.
        parameters: Those, in its order.
        index: Which member.
    """
    own = {
        key: {
            name: value[index]
            if isinstance(value, Tensor) and value.shape == parameters[key].shape
            else value
            for name, value in entry.items()
        }
        for key, entry in state["state"].items()
    }
    return {**state, "state": own}


def obstacle(model: nn.Module) -> str | None:
    """Why a network cannot be trained together with others and give what it gives alone; None if it can."""
    for name, module in check_module(model).named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"{name} drops units at random, from a stream that all members would share"
        if getattr(module, "drop_prob", 0) or (type(module).__name__ == "StochasticDepth" and module.p > 0):
            return f"{name} drops paths at random, from a stream that all members would share"
        if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
            return f"{name} drops attention at random, from a stream that all members would share"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            return f"{name} counts its batches on the host (momentum None)"
        if isinstance(module, nn.RNNBase):
            return f"{name} is recurrent, which vmap does not know"
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            return f"{name} has no shape yet"
    return None


def _difference(first: nn.Module, other: nn.Module) -> str | None:
    if type(first) is not type(other):
        return f"it is a {type(other).__name__}, and the first a {type(first).__name__}"
    ours, theirs = ({n: _kind(m, n) for n in _names(m)} for m in (first, other))
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name, 'missing')}, and of the first member {ours.get(name)}"
    return None


def _kind(model: nn.Module, name: str) -> str:
    tensor = _tensor(model, name)
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"


def _names(model: nn.Module) -> list[str]:
    """Parameters and buffers, each under its first name."""
    return [name for named in (model.named_parameters(), model.named_buffers()) for name, _ in named]


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, local = name.rpartition(".")
    return getattr(model.get_submodule(owner), local)


def _stack_tensor(stack: nn.Module, name: str, members: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor]]:
    """Put the stacked tensor into `stack`, wherever the one of that name stands, and views into `members`."""
    template, own = _tensor(stack, name), [_tensor(member, name) for member in members]
    stacked = torch.stack([tensor.detach() for tensor in own])
    put: Tensor = nn.Parameter(stacked, own[0].requires_grad) if isinstance(own[0], nn.Parameter) else stacked
    for module in stack.modules():
        for tensors in (module._parameters, module._buffers):
            for local, tensor in tensors.items():
                if tensor is template:
                    tensors[local] = put  # type: ignore[assignment]
    for tensor, part in zip(own, stacked, strict=True):
        tensor.data = part
    return put, own


def is_perceptron(model: nn.Module) -> bool:
    """Whether a network is a chain of linear layers and ReLUs, for which `Ensemble` needs no `vmap`."""
    return _chain(model) is not None


def _chain(stack: nn.Module) -> list[nn.Module] | None:
    layers = list(stack.children()) if type(stack) is nn.Sequential else []
    flat = all(
        type(layer) in (nn.Linear, nn.ReLU)
        or (type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1))
        for layer in layers
    )
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in stack.modules())
    return layers if layers and flat and not hooked else None


def _along_chain(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What `vmap` computes, with the weights as first factors, so that gradients arrive in their layout."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            features, bias = x.transpose(1, 2), layer._parameters["bias"]
            if bias is None:
                x = torch.bmm(layer.weight, features).transpose(1, 2)
            else:
                x = torch.baddbmm(bias.unsqueeze(2), layer.weight, features).transpose(1, 2)
        elif isinstance(layer, nn.Flatten):
            x = x.flatten(2)
        else:
            x = torch.relu(x)
    return x


Together, SearchesTogether = Ensemble, EnsembleSearch
"""Their names in version 0.1."""
