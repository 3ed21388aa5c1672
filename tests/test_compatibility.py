"""Whoever has a training script changes one line: schedulers, scaling, clipping, compile, copies."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm

from .test_search import train


def make(model: nn.Module, **options) -> sm.EdgePopup:
    return sm.EdgePopup(
        sm.randomize_(model, "kaiming_normal", seed=0),
        **{"density": 0.3, "lr": 0.1, "momentum": 0.9, **options},
    )


def scores_equal(a: sm.Search, b: sm.Search) -> bool:
    return all(torch.equal(a.scores[name], b.scores[name]) for name in a.scores)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=5),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.1),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=6),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    ],
)
def test_schedulers_reach_the_base_rule(small_net, batch, schedule):
    search = make(small_net)
    scheduler = schedule(search)
    seen = set()
    for _ in range(5):
        train(small_net, search, batch, 1)
        scheduler.step()
        group = search.param_groups[0]
        seen.add(group["lr"])
        search.begin_step()  # hands the options on
        assert search.base.param_groups[0]["lr"] == group["lr"]
        assert search.base.param_groups[0]["momentum"] == group["momentum"]
    assert len(seen) > 1


def test_a_learning_rate_of_zero_moves_nothing(small_net, batch):
    search = make(small_net)
    before = {name: s.clone() for name, s in search.scores.items()}
    search.param_groups[0]["lr"] = 0.0
    train(small_net, search, batch)
    assert all(torch.equal(before[name], s) for name, s in search.scores.items())


def test_gradient_accumulation_equals_the_whole_batch(small_net, batch):
    whole, parts = small_net.double().eval(), copy.deepcopy(small_net)
    a, b = make(whole), make(parts)
    x, y = batch[0].double(), batch[1]
    for _ in range(5):
        F.cross_entropy(whole(x), y).backward()
        for rows in (slice(0, 4), slice(4, 8)):
            (F.cross_entropy(parts(x[rows]), y[rows]) / 2).backward()
        for search in (a, b):
            search.step()
            search.zero_grad()
    for name in a.scores:
        assert torch.allclose(a.scores[name], b.scores[name], rtol=1e-9)
        assert torch.equal(a.mask[name], b.mask[name])


def test_zero_grad_clears_the_whole_model(small_net, batch):
    # Without randomize_, biases and norms still require gradients when the search is made.
    search = sm.EdgePopup(small_net, density=0.3, lr=0.1)
    norms = []
    for _ in range(3):
        search.zero_grad()
        F.cross_entropy(small_net(batch[0]), batch[1]).backward()
        norms.append(sum(p.grad is not None for p in small_net.parameters()))
    assert norms == [3, 3, 3]
    search.zero_grad()
    assert all(p.grad is None for p in small_net.parameters())


def test_clipping_scales_the_score_step(small_net, batch):
    clipped, plain = small_net.eval(), copy.deepcopy(small_net).eval()
    a, b = make(clipped, momentum=0.0), make(plain, momentum=0.0)
    start = {name: s.clone() for name, s in a.scores.items()}
    for network in (clipped, plain):
        F.cross_entropy(network(batch[0]), batch[1]).backward()
    norm = torch.nn.utils.clip_grad_norm_(clipped.parameters(), 0.01)
    assert norm > 0.01
    a.step()
    b.step()
    for name, score in start.items():
        moved, full = a.scores[name] - score, b.scores[name] - score
        assert torch.allclose(moved, full * (0.01 / norm), atol=1e-7)


def test_autocast_and_grad_scaler(small_net, batch):
    search = make(small_net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(small_net(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.step(search)
        scaler.update()
        search.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_grad_scaler_skips_a_step_that_overflowed(small_net, batch):
    search = make(small_net)
    before = {name: s.clone() for name, s in search.scores.items()}
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(small_net(batch[0]), batch[1])).backward()
    small_net.conv.weight.grad[0] = float("inf")
    scaler.step(search)
    scaler.update()
    assert all(torch.equal(before[name], s) for name, s in search.scores.items())


def test_bf16_parameters_have_float32_scores(small_net, batch):
    search = make(small_net.bfloat16())
    train(small_net, search, (batch[0].bfloat16(), batch[1]), 3)
    assert all(s.dtype == torch.float32 for s in search.scores.values())
    saved = copy.deepcopy(search.state_dict())
    train(small_net, search, (batch[0].bfloat16(), batch[1]), 1)
    search.load_state_dict(saved)
    assert all(torch.equal(search.scores[n], saved["state"][i]["score"]) for i, n in enumerate(search.scores))


def test_channels_last_gives_the_same_masks(small_net, batch):
    plain, last = small_net, copy.deepcopy(small_net).to(memory_format=torch.channels_last)
    a, b = make(plain, lr=0.01), make(last, lr=0.01)
    for _ in range(3):
        for network, search in ((plain, a), (last, b)):
            search.zero_grad()
            F.cross_entropy(network(batch[0]), batch[1]).backward()
        # The same gradient, in another memory format, must give the same bits.
        for p, q in zip(plain.parameters(), last.parameters(), strict=True):
            if p.grad is not None:
                q.grad.copy_(p.grad)
        a.step()
        b.step()
        assert scores_equal(a, b)
        assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), last.parameters(), strict=True))
    assert last.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torch_compile_without_a_graph_break(small_net, batch, backend):
    twin = copy.deepcopy(small_net)
    search, reference = make(small_net), make(twin)
    compiled = torch.compile(small_net, fullgraph=True, backend=backend)
    losses = train(compiled, search, batch, 5)
    assert torch.allclose(torch.tensor(losses), torch.tensor(train(twin, reference, batch, 5)), rtol=1e-3)
    assert list(make(compiled, density=0.5).scores) == list(search.scores)


def test_deepcopy_of_model_and_search_together(small_net, batch):
    search = make(small_net)
    train(small_net, search, batch, 2)
    model, twin = copy.deepcopy((small_net, search))
    assert train(model, twin, batch, 4) == train(small_net, search, batch, 4)
    assert scores_equal(search, twin)
    assert twin.scores["conv.weight"] is not search.scores["conv.weight"]


def test_deepcopy_of_the_model_is_a_plain_model(small_net, batch):
    search = make(small_net)
    train(small_net, search, batch, 2)
    average = copy.deepcopy(small_net)
    before = average.hidden.weight.clone()
    train(small_net, search, batch, 3)
    assert torch.equal(average.hidden.weight, before)


def test_closures_are_called(small_net, batch):
    search = make(small_net)

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = F.cross_entropy(small_net(batch[0]), batch[1])
        loss.backward()
        return loss

    first = search.step(closure).item()
    for _ in range(30):
        last = search.step(closure).item()
    assert last < first


def test_tied_weights_share_one_mask(batch):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(64, 64, bias=False)
            self.decode = nn.Linear(64, 64, bias=False)
            self.decode.weight = self.encode.weight
            self.output = nn.Linear(64, 3)

        def forward(self, x):
            return self.output(torch.relu(self.decode(torch.relu(self.encode(x.flatten(1))))))

    model = Tied()
    search = make(model)
    assert list(search.mask) == ["encode.weight", "output.weight"]
    train(model, search, batch)
    assert model.decode.weight is model.encode.weight
    ticket = search.ticket()
    twin = ticket.apply(Tied())
    assert torch.equal(twin(batch[0]), model(batch[0])) and twin.decode.weight is twin.encode.weight


def test_a_layer_without_a_gradient_keeps_its_mask(small_net, batch):
    search = make(small_net)
    small_net.conv.weight.requires_grad_(False)
    mask = search.mask["conv.weight"].clone()
    train(small_net, search, batch)
    assert torch.equal(mask, search.mask["conv.weight"])


@pytest.mark.parametrize(
    "base", [torch.optim.Adagrad, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Rprop]
)
def test_any_torch_optimizer_moves_the_scores(small_net, batch, base):
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.3, lr=0.01, base=base)
    before = search.scores["hidden.weight"].clone()
    train(small_net, search, batch)
    assert not torch.equal(before, search.scores["hidden.weight"])
