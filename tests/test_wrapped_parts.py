"""Parts of a network inside `torch.compile` and the like: what looks into the network sees the plain one."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import supermask as sm
from supermask.analysis.masks import effective
from supermask.prune import at_init, structured
from supermask.weights.names import plain_copy


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU())
        self.head = nn.Linear(8, 1 << 14, bias=False)
        self.last = nn.Linear(1 << 14, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.head(self.block(self.stem(x)).mean(dim=(2, 3)))))


WRAPPERS = {
    "compiled": lambda part: torch.compile(part, backend="eager"),
    "checkpointed": checkpoint_wrapper,
    "averaged": AveragedModel,
    "data parallel": nn.DataParallel,
    "one inside another": lambda part: torch.compile(checkpoint_wrapper(part), backend="eager"),
}
IMAGES = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=WRAPPERS.values(), ids=WRAPPERS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A plain network, and one of the same weights whose parts are wrapped."""
    plain, wrapped = (sm.randomize_(Net(), "signed_constant", seed=1) for _ in range(2))
    wrapped.block, wrapped.head = request.param(wrapped.block), request.param(wrapped.head)
    return plain, wrapped


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def test_their_layers_are_packed(pair):
    plain, wrapped = pair
    before, types = {name: p.clone() for name, p in wrapped.named_parameters()}, kinds(wrapped)
    ticket = sm.EdgePopup(plain, density=0.3, lr=0.1).ticket()
    packed = sm.pack(wrapped, ticket)
    assert kinds(packed) == kinds(sm.pack(Net(), ticket))
    assert sum("Packed" in kind.__name__ for kind in kinds(packed).values()) == 2
    assert torch.allclose(packed(IMAGES), plain.eval()(IMAGES), atol=1e-6)
    assert kinds(wrapped) == types  # the user's own network is as it was
    assert all(torch.equal(before[name], p) for name, p in wrapped.named_parameters())


def test_scores_filters_and_effective_masks_are_those_of_the_plain_network(pair):
    plain, wrapped = pair
    labels = torch.arange(5) % 4
    for scores in (
        lambda model: at_init.snip(model, IMAGES, labels),
        lambda model: at_init.synaptic_flow(model, (1, 6, 6)),
    ):
        first, other = scores(plain), scores(wrapped)
        assert first.keys() == other.keys() and all(torch.allclose(first[n], other[n]) for n in first)
    mask = {name: torch.rand(p.shape) < 0.3 for name, p in plain.named_parameters()}
    first, other = effective(plain, mask, (1, 6, 6)), effective(wrapped, mask, (1, 6, 6))
    assert first[1] == other[1] and all(torch.equal(first[0][name], other[0][name]) for name in mask)


def test_filters_are_found_and_removed(pair):
    pytest.importorskip("torch_pruning")
    from supermask.prune.shrink import shrink

    first, other = (structured.filter_layers(model, IMAGES) for model in pair)
    assert first.keys() == other.keys() == {"stem.weight", "block.1.weight", "head.weight"}
    weights = {name: p.detach() for name, p in pair[0].named_parameters()}
    mask = structured.filter_mask(weights, first, 0.5)
    smaller = [shrink(model, mask, IMAGES) for model in pair]
    assert kinds(smaller[0]) == kinds(smaller[1])
    for a, b in zip(smaller[0].parameters(), smaller[1].parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad


def test_tied_parts_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0] = torch.compile(model[0], backend="eager")
    twin = plain_copy(torch.compile(model, backend="eager"))
    assert [name for name, _ in twin.named_parameters()] == ["0.weight", "0.bias", "2.bias"]
    assert twin[2].weight is twin[0].weight is not model[2].weight


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def parts(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A plain network of which some parts, with biases, are wrapped after its weights were drawn."""
    middle = nn.Sequential(nn.Linear(12, 12), nn.ReLU())
    model = sm.randomize_(nn.Sequential(nn.Linear(6, 12), middle, nn.Linear(12, 3)), seed=2, density=0.5)
    model[1] = wrap(middle)
    return model


def test_a_search_moves_scores_of_a_part_in_distributed_data_parallel(one_rank: None) -> None:
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 3
    tickets = []
    for model in (parts(lambda part: part), parts(nn.parallel.DistributedDataParallel)):
        search = sm.EdgePopup(model, density=0.5, lr=1.0)
        for _ in range(5):
            nn.functional.cross_entropy(model(inputs), labels).backward()
            search.step()
            search.zero_grad()
        tickets.append(search.ticket())
    assert tickets[0] == tickets[1]
    fresh = sm.EdgePopup(parts(lambda part: part), density=0.5, lr=1.0).ticket()
    assert tickets[0] != fresh  # it moved


@pytest.mark.parametrize("whole", [False, True])
def test_weights_are_drawn_before_distributed_data_parallel(one_rank: None, whole: bool) -> None:
    model = parts((lambda part: part) if whole else nn.parallel.DistributedDataParallel)
    if whole:
        model = torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager")
    with pytest.raises(ValueError, match="call randomize_ before wrapping"):
        sm.randomize_(model, seed=0)
