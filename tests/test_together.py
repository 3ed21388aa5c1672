"""Networks trained together: each member ends where it would have ended alone."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import random_mask
from supermask.models import create_model
from supermask.prune import hold
from supermask.training.ensemble import Ensemble, EnsembleSearch, member_state, stack_batches, stack_named
from supermask.training.loop import fit

S, B, STEPS = 3, 8, 25


def perceptron(seed: int, bias: bool = False) -> nn.Module:
    model = create_model("lenet-300-100", num_classes=3, in_channels=1, image_size=8, width=0.1, bias=bias)
    return sm.randomize_(model.double(), init="kaiming_normal", seed=seed)


def convolutional(seed: int) -> nn.Module:
    model = create_model("conv-2", num_classes=3, in_channels=1, image_size=8, width=0.05, bias=True)
    return sm.randomize_(model.double(), init="kaiming_normal", seed=seed)


class Normed(nn.Module):
    """Norms with and without running statistics, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Linear(64, 64, bias=False)
        self.again = nn.Linear(64, 64, bias=False)
        self.again.weight = self.inner.weight
        self.last = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1)
        return self.last(self.again(torch.relu(self.inner(x))))


def normed(seed: int) -> nn.Module:
    return sm.randomize_(Normed().double(), init="kaiming_normal", seed=seed)


def batches(seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        images = torch.randn(B, 1, 8, 8, generator=generator, dtype=torch.float64)
        return images, (images.mean(dim=(1, 2, 3)) * 20).long().remainder(3)

    return batch


def alone(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    for step in range(STEPS):
        inputs, labels = batches(seed)(step)
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def as_one(together: Ensemble, optimizer: torch.optim.Optimizer) -> None:
    together_batches = stack_batches([batches(seed) for seed in range(S)])
    for step in range(STEPS):
        together.losses(*together_batches(step)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], rtol=1e-9, atol=1e-11), name


RULES = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adam": (torch.optim.Adam, {"lr": 3e-3, "weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 3e-3}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "make", [perceptron, lambda seed: perceptron(seed, bias=True), convolutional, normed], ids="pbcn"
)
def test_weights_train_as_alone(make, rule):
    cls, options = RULES[rule]
    singles = [make(seed).requires_grad_(True) for seed in range(S)]
    together = Ensemble(copy.deepcopy(singles))
    for seed, model in enumerate(singles):
        start = copy.deepcopy(model)
        alone(model, cls(model.parameters(), **options), seed)
        assert not torch.allclose(next(start.parameters()), next(model.parameters()))
    as_one(together, cls(together.stack.parameters(), **options))
    for model, member in zip(singles, together.members, strict=True):
        assert_same(model, member)


@pytest.mark.parametrize("values", [False, True])
def test_tickets_train_as_alone_under_their_masks(values):
    singles = [perceptron(seed).requires_grad_(True) for seed in range(S)]
    shapes = {name: tuple(p.shape) for name, p in singles[0].named_parameters()}
    masks = []
    for seed in range(S):  # another density for each
        keep = {name: p.numel() // (2 + seed) for name, p in singles[0].named_parameters()}
        masks.append(random_mask(shapes, keep, seed))
    held = [{n: p.detach().clone() for n, p in m.named_parameters()} if values else {} for m in singles]
    together = Ensemble(copy.deepcopy(singles))
    cls, options = RULES["sgd"]
    for seed, model in enumerate(singles):
        optimizer = cls(model.parameters(), **options)
        hold(optimizer, masks[seed], model, held[seed])
        alone(model, optimizer, seed)
    optimizer = cls(together.stack.parameters(), **options)
    hold(optimizer, stack_named(masks), together.stack, stack_named(held))
    as_one(together, optimizer)
    for mask, model, member, value in zip(masks, singles, together.members, held, strict=True):
        assert_same(model, member)
        for name, parameter in member.named_parameters():
            pruned = value[name] if values else torch.zeros_like(parameter)
            assert torch.equal(parameter[~mask[name]], pruned[~mask[name]])


@pytest.mark.filterwarnings("ignore::supermask.masks.LayerCollapseWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("edge-popup", {}),
        ("edge-popup", {"distribution": "global"}),
        ("edge-popup", {"density_schedule": "cubic", "schedule_steps": 9}),
        ("edge-popup", {"base": "adam", "lr": 0.01, "momentum": None}),
        ("iterand", {"period": 7}),
        ("biprop", {}),
    ],
)
def test_searches_end_with_the_masks_that_they_find_alone(method, options, dtype):
    """Densities and learning rates of their own; float32 takes the fused step where there is one."""
    common = {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-3, **options}
    common = {key: value for key, value in common.items() if value is not None}
    densities = (0.5, 0.3, 0.2)

    def search(seed: int, model: nn.Module) -> sm.Search:
        return sm.SEARCHES[method](model, density=densities[seed], seed=seed, **common)

    singles = [normed(seed).to(dtype) for seed in range(S)]
    together = Ensemble(copy.deepcopy(singles))
    steps = [search(seed, model) for seed, model in enumerate(singles)]
    optimizer = EnsembleSearch(together, [search(i, m) for i, m in enumerate(together.members)])
    first = optimizer.members[0].mask
    stacked = stack_batches([batches(seed) for seed in range(S)])
    for step in range(STEPS if dtype == torch.float64 else 8):
        for seed, (model, own) in enumerate(zip(singles, steps, strict=True)):
            inputs, labels = batches(seed)(step)
            F.cross_entropy(model(inputs.to(dtype)), labels).backward()
            own.step()
            own.zero_grad()
        inputs, labels = stacked(step)
        together.losses(inputs.to(dtype), labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any((first[n] != m).any() for n, m in optimizer.members[0].mask.items())
    for own, member in zip(steps, optimizer.members, strict=True):
        assert own.steps == member.steps
        for name, mask in own.mask.items():
            assert torch.equal(mask, member.mask[name]), name
        one, other = own.ticket(), member.ticket()
        assert one.kept == other.kept and one.strong == other.strong
        for name, value in one.weights().items():
            assert torch.equal(value, other.weights()[name]), name


def test_the_fused_step_of_several_is_one_call_and_that_of_each(monkeypatch):
    from supermask import ops

    calls, real = [], ops.edge_popup_sgd

    def counted(out, *arguments, **options):
        calls.append(len(out))
        return real(out, *arguments, **options)

    monkeypatch.setattr(ops, "edge_popup_sgd", counted)
    models = [perceptron(seed).float() for seed in range(S)]
    together = Ensemble(models)
    searches = [sm.EdgePopup(m, density=0.3, lr=0.1, momentum=0.9, seed=i) for i, m in enumerate(models)]
    optimizer = EnsembleSearch(together, searches)
    twins = [copy.deepcopy(search) for search in searches]
    for _ in range(3):
        grads = {name: torch.randn_like(p) for name, p in together.stack.named_parameters()}
        for name, parameter in together.stack.named_parameters():
            parameter.grad = grads[name]
            for i, twin in enumerate(twins):
                twin.model.get_parameter(name).grad = grads[name][i].clone()
        calls.clear()
        optimizer.step()
        together_calls = list(calls)
        for twin in twins:
            twin.step()
    if ops.is_native("edge_popup_sgd", torch.device("cpu")):
        assert together_calls == [3 * S]
    for twin, search in zip(twins, searches, strict=True):
        for name in twin.scores:
            assert torch.equal(twin.scores[name], search.scores[name])
            assert torch.equal(twin.model.get_parameter(name), search.model.get_parameter(name))


def test_a_member_is_an_ordinary_network_all_the_time():
    together = Ensemble([convolutional(seed).requires_grad_(True) for seed in range(S)])
    inputs, labels = stack_batches([batches(seed) for seed in range(S)])(0)
    outputs = together(inputs)
    losses = together.losses(inputs, labels)
    losses.sum().backward()
    together.share_gradients()
    for i, member in enumerate(together.members):
        assert torch.allclose(outputs[i], member(inputs[i]), rtol=1e-10)
        loss = F.cross_entropy(member(inputs[i]), labels[i])
        assert torch.allclose(losses[i], loss, rtol=1e-10)
        grads = torch.autograd.grad(loss, list(member.parameters()))
        for grad, parameter in zip(grads, member.parameters(), strict=True):
            assert torch.allclose(grad, parameter.grad, rtol=1e-8, atol=1e-12)
    before = together(inputs)[1]
    with torch.no_grad():
        together.members[1].fc3.bias += 1
    assert torch.allclose(together(inputs)[1], before + 1)
    together.zero_grad()
    assert all(p.grad is None for member in together.members for p in member.parameters())


@pytest.mark.parametrize("kind", ["weights", "search"])
def test_fit_goes_on_bit_for_bit(tmp_path, kind):
    from supermask.training.loop import Checkpoint

    def make() -> tuple[Ensemble, torch.optim.Optimizer]:
        together = Ensemble([perceptron(seed).float().requires_grad_(True) for seed in range(S)])
        if kind == "weights":
            return together, torch.optim.SGD(together.stack.parameters(), lr=0.1, momentum=0.9)
        searches = [
            sm.EdgePopup(m, density=0.3, lr=0.1, momentum=0.9, seed=i) for i, m in enumerate(together.members)
        ]
        return together, EnsembleSearch(together, searches)

    def train(stop: int | None) -> Ensemble:
        together, optimizer = make()

        def on_step(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        stacked = stack_batches([batches(seed) for seed in range(S)])
        fit(
            together,
            optimizer,
            lambda step: tuple(t.float() if t.is_floating_point() else t for t in stacked(step)),
            steps=12,
            objective=lambda model, inputs, labels: model.losses(inputs, labels).sum(),
            on_step=on_step,
            checkpoint=Checkpoint(tmp_path / str(stop), 0),
        )
        return together

    whole = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(7)
    (tmp_path / "7").rename(tmp_path / "13")
    resumed = train(13)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_state_of_a_member_is_that_of_its_optimizer_alone():
    singles = [perceptron(seed).requires_grad_(True) for seed in range(S)]
    together = Ensemble(copy.deepcopy(singles))
    cls, options = RULES["adam"]
    stacked = cls(together.stack.parameters(), **options)
    as_one(together, stacked)
    for seed, model in enumerate(singles):
        own = cls(model.parameters(), **options)
        alone(model, own, seed)
        state = member_state(stacked.state_dict(), list(together.stack.parameters()), seed)
        assert state["param_groups"] == own.state_dict()["param_groups"]
        for key, entry in own.state_dict()["state"].items():
            for name, value in entry.items():
                assert torch.allclose(value, state["state"][key][name], rtol=1e-8, atol=1e-12)


def test_what_cannot_be_together_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"member 1 .*fc1\.weight is .*\(60, 64\)"):
        wide = create_model("lenet-300-100", num_classes=3, in_channels=1, image_size=8, width=0.2).double()
        Ensemble([perceptron(0), wide])
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="1 drops units at random"):
        Ensemble([dropping, copy.deepcopy(dropping)])
    models = [perceptron(seed) for seed in range(2)]
    together = Ensemble(models)
    searches = [sm.EdgePopup(m, density=0.3, lr=0.1) for m in models]
    with pytest.raises(ValueError, match="one search for each member"):
        EnsembleSearch(together, searches[::-1])
    with pytest.raises(ValueError, match="other names"):
        stack_named([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
