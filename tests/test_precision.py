"""Weights in bfloat16 while float32 learns: against loops written out, and against autocast."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.prune import EarlyBird, Rewire
from supermask.training.loop import Schedule, fit
from supermask.training.precision import Bf16Weights, in_float32

from .small_net import SmallNet

STEPS, RATE, MOMENTUM, DECAY = 12, 0.3, 0.9, 1e-2


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 1, 8, 8, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) * 20).long().remainder(3)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3))


def loss_by_hand(weights: list[torch.Tensor], biases: list[torch.Tensor], step: int) -> torch.Tensor:
    """Both layers in bfloat16, the softmax in float32."""
    x, labels = batches(step)
    hidden = F.linear(x.flatten(1).bfloat16(), weights[0], biases[0]).relu()
    return F.cross_entropy(F.linear(hidden, weights[1], biases[1]).float(), labels)


def test_a_search_is_the_loop_of_float32_scores_and_rounded_weights():
    model = sm.randomize_(two_layers(), "kaiming_normal", seed=1)
    frozen = [model[1].weight.detach().clone(), model[3].weight.detach().clone()]
    search = sm.EdgePopup(model, density=0.3, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    scores = [score.clone() for score in search.scores.values()]
    fit(model, search, batches, steps=STEPS, amp="pure-bf16")

    def masked(score: torch.Tensor) -> torch.Tensor:
        order = score.abs().flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(score.numel(), dtype=torch.bool)
        mask[order[: round(0.3 * score.numel())]] = True
        return mask.view_as(score)

    velocities, biases = [None, None], [torch.zeros(24).bfloat16(), torch.zeros(3).bfloat16()]
    for step in range(STEPS):
        effective = [(w * masked(s)).bfloat16().requires_grad_() for w, s in zip(frozen, scores, strict=True)]
        for i, grad in enumerate(torch.autograd.grad(loss_by_hand(effective, biases, step), effective)):
            assert grad.dtype == torch.bfloat16
            change = (grad.float() * frozen[i] * scores[i].sign()).add(scores[i], alpha=DECAY)
            velocities[i] = change if step == 0 else velocities[i].mul(MOMENTUM).add(change)
            scores[i] = scores[i].add(velocities[i], alpha=-RATE)
    for (name, found), score, weight in zip(search.scores.items(), scores, frozen, strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, score)
        assert torch.equal(search.mask[name], masked(score))
        assert torch.equal(model.get_parameter(name), weight * masked(score))


def test_weights_step_in_float32_and_compute_rounded():
    model = sm.randomize_(two_layers(), "kaiming_normal", seed=1).requires_grad_(True)
    masters = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=MOMENTUM)
    fit(model, optimizer, batches, steps=STEPS, amp="pure-bf16")
    velocities = [torch.zeros_like(master) for master in masters]
    for step in range(STEPS):
        low = [master.bfloat16().requires_grad_() for master in masters]
        grads = torch.autograd.grad(loss_by_hand(low[::2], low[1::2], step), low)
        for i, grad in enumerate(grads):
            velocities[i] = velocities[i].mul(MOMENTUM).add(grad.float())
            masters[i] = masters[i].add(velocities[i], alpha=-1e-3)
    for parameter, master in zip(model.parameters(), masters, strict=True):
        assert parameter.dtype == torch.float32 and torch.equal(parameter, master)
    # Steps this small vanish in bfloat16: the float32 weights have moved where their roundings have not.
    start = sm.randomize_(two_layers(), "kaiming_normal", seed=1)[1].weight
    unrounded = (model[1].weight != start) & (model[1].weight.bfloat16() == start.bfloat16())
    assert unrounded.float().mean() > 0.1


def trained(kind: str, amp: str, **options: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = sm.randomize_(SmallNet(), "kaiming_normal", seed=2, train_norms=kind == "norms")
    if kind in sm.SEARCHES or kind == "norms":
        cls = sm.SEARCHES.get(kind, sm.EdgePopup)
        more = {"train_norms": True} if kind == "norms" else {}
        optimizer = cls(model, density=0.4, lr=0.1, **more)
        optimizer.plan(STEPS, 3)
    else:
        model.requires_grad_(True)
        rule = torch.optim.AdamW if kind == "adamw" else torch.optim.SGD
        optimizer = rule(model.parameters(), lr=0.01, weight_decay=DECAY)
        named = {name: p for name, p in model.named_parameters() if p.dim() > 1}
        mask = {name: torch.rand(p.shape) < 0.5 for name, p in named.items()}
        if kind == "hold":
            frozen = {name: p.detach().clone() for name, p in named.items()}
            sm.hold(optimizer, mask, model, values=frozen)
        elif kind == "rigl":
            Rewire(optimizer, mask, model, every=3, until=10)
        elif kind == "early-bird":
            EarlyBird(optimizer, model, density=0.5, units="channels", every=2, until=6)
    schedule = Schedule("cosine", STEPS)
    fit(model, optimizer, batches, steps=STEPS, schedule=schedule, amp=amp, **options)
    return model, optimizer


@pytest.mark.parametrize("kind", [*sm.SEARCHES, "norms", "sgd", "adamw", "hold", "rigl", "early-bird"])
def test_the_bits_are_those_of_autocast(kind):
    (pure, _), (cast, _), (plain, _) = (trained(kind, amp) for amp in ("pure-bf16", "bf16", "none"))
    for name, value in cast.state_dict().items():
        assert torch.equal(pure.state_dict()[name], value), name
    assert any(not torch.equal(a, b) for a, b in zip(pure.buffers(), plain.buffers(), strict=True))


def test_the_ticket_is_that_of_the_float32_network(tmp_path):
    model = sm.randomize_(sm.create_model("conv-2", num_classes=3, in_channels=1, image_size=8), seed=5)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    search = sm.EdgePopup(model, density=0.4, lr=0.1)
    fit(model, search, batches, steps=5, amp="pure-bf16")
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "net.ticket"))
    assert ticket.strong
    for name, mask in search.mask.items():
        assert torch.equal(ticket.weights()[name], weights[name] * mask)
    network, x = sm.load(tmp_path / "net.ticket"), batches(0)[0]
    assert torch.equal(network(x), model.eval()(x)) and network(x).dtype == torch.float32
    assert torch.allclose(sm.pack(network, ticket)(x), network(x), atol=1e-5)


def test_what_looks_in_between_sees_float32(tmp_path):
    model = sm.randomize_(SmallNet(), "kaiming_normal", seed=2)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    search = sm.EdgePopup(model, density=0.4, lr=0.1)
    seen = []

    def look(step: int) -> None:
        lowered = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
        seen.append(lowered)
        rounded = {name: model.get_parameter(name).detach().clone() for name in lowered}
        with in_float32(model):
            for name, mask in search.mask.items():
                assert torch.equal(model.get_parameter(name), weights[name] * mask)
            assert sm.Ticket.from_model(model, search.mask).strong
        for name, value in rounded.items():
            assert torch.equal(model.get_parameter(name), value)

    fit(model, search, batches, steps=3, amp="pure-bf16", on_step=look)
    # Norms stay as they are: their statistics would stand still in bfloat16.
    assert seen == [{"conv.weight", "conv.bias", "hidden.weight", "hidden.bias", "output.weight"}] * 3


def test_an_interrupt_leaves_a_float32_network():
    model = sm.randomize_(SmallNet(), "kaiming_normal", seed=2)
    search = sm.EdgePopup(model, density=0.4, lr=0.1)

    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, search, batches, steps=3, amp="pure-bf16", on_step=interrupt)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and search.ticket().strong
    fit(model, search, batches, steps=3)


def test_channels_last_stays(small_net):
    model = sm.randomize_(small_net, "kaiming_normal", seed=2).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    for network in (model, twin):
        optimizer = sm.EdgePopup(network, density=0.4, lr=0.1)
        with Bf16Weights(network, optimizer):
            assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_data_parallel_wrappers_are_refused(small_net, tmp_path):
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/meet")
    try:
        model = nn.parallel.DistributedDataParallel(small_net)
        with pytest.raises(ValueError, match="take amp bf16"):
            fit(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, steps=1, amp="pure-bf16")
    finally:
        torch.distributed.destroy_process_group()
