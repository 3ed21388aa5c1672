"""Pruning at initialization against closed forms, finite differences and path sums, in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supermask.prune import at_init, best, grasp, snip, synflow
from supermask.prune.at_init import TEMPERATURE, synaptic_flow
from supermask.weights.roles import masked


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))
    return nn.Sequential(*layers).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator).double(), torch.randint(3, (8,), generator=generator)


def test_snip_is_the_derivative_of_the_loss_by_a_connection():
    model, (x, y) = network(), batch()
    scores = snip(model, x, y)
    weight, step = model[0].weight, 1e-6
    for place in ((0, 0), (2, 3), (4, 5)):
        losses = []
        for c in (1 + step, 1 - step):
            changed = weight.detach().clone()
            changed[place] *= c
            losses.append(
                F.cross_entropy(torch.func.functional_call(model, {"0.weight": changed}, (x,)), y).item()
            )
        assert scores["0.weight"][place].item() == pytest.approx(
            abs(losses[0] - losses[1]) / (2 * step), 1e-5
        )


def test_grasp_is_the_change_of_the_gradient_norm():
    model, (x, y) = network(), batch()
    names = [name for name, p in model.named_parameters() if p.dim() == 2]

    def squared_norm(values):
        tensors = [values[name].detach().clone().requires_grad_() for name in names]
        outputs = torch.func.functional_call(model, dict(zip(names, tensors, strict=True)), (x,))
        grads = torch.autograd.grad(F.cross_entropy(outputs / TEMPERATURE, y), tensors)
        return sum(float(g.square().sum()) for g in grads)

    scores, step = grasp(model, x, y), 1e-4
    start = {name: p.detach() for name, p in model.named_parameters()}
    for name, place in (("0.weight", (1, 2)), ("2.weight", (3, 0)), ("4.weight", (2, 1))):
        norms = []
        for c in (1 - step, 1 + step):
            changed = start[name].clone()
            changed[place] *= c
            norms.append(squared_norm({**start, name: changed}))
        # d|g|²/dc = 2 w · (H g) at c = 1, where c scales the weight.
        expected = (norms[1] - norms[0]) / (2 * step) / 2
        assert scores[name][place].item() == pytest.approx(expected, rel=1e-4, abs=1e-14)


def test_synaptic_flow_is_the_sum_over_paths():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    scores = synaptic_flow(linear, (4,))
    first, second = (np.abs(linear[i].weight.detach().double().numpy()) for i in (0, 2))
    assert np.allclose(scores["0.weight"].numpy(), first * second.sum(0)[:, None])
    assert np.allclose(scores["2.weight"].numpy(), second * first.sum(1)[None, :])


def test_synaptic_flow_is_conserved_from_layer_to_layer():
    # Tanaka et al., theorem 1: every layer of a network without biases carries the same sum.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 2, bias=False),
    )
    sums = [float(score.sum()) for score in synaptic_flow(model, (1, 6, 6)).values()]
    assert sums == pytest.approx([sums[0]] * 3)


@pytest.mark.parametrize("density", [0.5, 0.05])
def test_synflow_keeps_its_count_and_no_layer_collapses(density):
    torch.manual_seed(0)
    widths = [20, 40, 3, 40, 5]
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    before = {name: p.clone() for name, p in model.named_parameters()}
    total = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    keep = round(density * total)
    mask = synflow(model, (20,), keep)
    assert sum(int(m.sum()) for m in mask.values()) == keep
    # What is kept lies on paths from input to output: the point of pruning in rounds.
    flow = torch.ones(20)
    for name, m in mask.items():
        flow = (model.get_parameter(name).detach().abs() * m) @ flow
    assert flow.sum() > 0
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_network_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 16, 3))
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    for scores in (snip(model, x, y), grasp(model, x, y), synflow(model, (1, 6, 6), 20)):
        assert scores.keys() == {"0.weight", "3.weight"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters()) and model.training


class Layers:
    """Synaptic flow of linear layers, batch norms and ReLU in NumPy, with a backward pass of its own."""

    def __init__(self, model: nn.Sequential) -> None:
        self.state = {name: value.double().numpy().copy() for name, value in model.state_dict().items()}
        self.kinds = [type(module) for module in model]
        self.names = [f"{i}.weight" for i, kind in enumerate(self.kinds) if kind is nn.Linear]

    def scores(self, kept: dict[str, np.ndarray], inputs: int) -> dict[str, np.ndarray]:
        x, seen = np.ones(inputs), []
        for i, kind in enumerate(self.kinds):
            seen.append(x)
            if kind is nn.Linear:
                x = np.abs(self.state[f"{i}.weight"]) * kept[f"{i}.weight"] @ x + np.abs(
                    self.state[f"{i}.bias"]
                )
            elif kind is nn.BatchNorm1d:
                spread = np.sqrt(self.state[f"{i}.running_var"] + 1e-5)
                x = (x - self.state[f"{i}.running_mean"]) / spread * np.abs(self.state[f"{i}.weight"])
                x += np.abs(self.state[f"{i}.bias"])
            else:
                x = np.maximum(x, 0)
        gradient, found = np.ones_like(x), {}
        for i, kind in reversed(list(enumerate(self.kinds))):
            name = f"{i}.weight"
            if kind is nn.Linear:
                weight = np.abs(self.state[name]) * kept[name]
                found[name] = weight * np.outer(gradient, seen[i])
                gradient = weight.T @ gradient
            elif kind is nn.BatchNorm1d:
                gradient = (
                    gradient * np.abs(self.state[name]) / np.sqrt(self.state[f"{i}.running_var"] + 1e-5)
                )
            else:
                gradient = gradient * (seen[i] > 0)
        return found

    def masks(self, inputs: int, keep: int, rounds: int) -> dict[str, np.ndarray]:
        """Algorithm 1 with exact counts: after round r there are round(N · (keep / N)^(r / rounds))."""
        kept = {name: np.ones_like(self.state[name], bool) for name in self.names}
        total = sum(mask.size for mask in kept.values())
        for r in range(1, rounds + 1):
            found = self.scores(kept, inputs)
            score = np.concatenate([np.abs(found[name]).ravel() for name in self.names])
            alive = np.concatenate([kept[name].ravel() for name in self.names])
            places = np.flatnonzero(alive)
            order = places[np.argsort(-score[places], kind="stable")]
            chosen = np.zeros(total, bool)
            chosen[order[: round(total * (keep / total) ** (r / rounds))]] = True
            parts = np.split(chosen, np.cumsum([kept[name].size for name in self.names])[:-1])
            kept = {n: part.reshape(kept[n].shape) for n, part in zip(self.names, parts, strict=True)}
        return kept


def normed(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(4)
    widths = (9, 12, 10, 4)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    model = nn.Sequential(*layers[:-2])
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.BatchNorm1d):  # statistics and scales that are not those of a fresh norm
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-0.1, 0.1)
            elif isinstance(module, nn.Linear):
                module.weight.mul_(scale)
    return model


@pytest.mark.parametrize("rounds", [1, 2, 7, 100])
@pytest.mark.parametrize("density", [0.6, 0.15])
def test_synflow_is_algorithm_1_in_numpy(density, rounds):
    model = normed()
    keep = round(density * (9 * 12 + 12 * 10 + 10 * 4))
    expected = Layers(model).masks(9, keep, rounds)
    ours = synflow(model, (9,), keep, rounds)
    assert model.training  # although the flow is that of evaluation mode, by the norms' statistics
    for name, mask in expected.items():
        assert np.array_equal(ours[name].numpy(), mask)


def test_synflow_counts_in_double_precision():
    model = normed(scale=1e18)  # three layers of it are beyond float32
    ones = {info.name: np.ones(tuple(info.tensor.shape), bool) for info in masked(model)}
    expected, found = Layers(model).scores(ones, 9), synaptic_flow(model, (9,))
    for name, score in expected.items():
        assert score.max() > 1e39 and np.allclose(found[name].numpy(), score, rtol=1e-10)
    expected = Layers(model).masks(9, 60, 10)
    assert all(np.array_equal(m.numpy(), expected[n]) for n, m in synflow(model, (9,), 60, 10).items())


@pytest.mark.parametrize(("seed", "keep", "rounds"), [(36, 5, 3), (63, 6, 5), (79, 5, 3)])
def test_synflow_brings_no_weight_back_where_survivors_have_no_flow(seed, keep, rounds, monkeypatch):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise((4, 5, 5, 2))))
    seen = []

    def watched(scores, count, mask=None):
        seen.append((scores, best(scores, count, mask), best(scores, count)))
        return seen[-1][1]

    monkeypatch.setattr(at_init, "best", watched)
    synflow(model, (4,), keep, rounds)
    assert len(seen) == rounds
    came_back = False
    for (_, before, _), (_, after, ranked) in pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in after)
        came_back |= any(bool((ranked[name] & ~before[name]).any()) for name in after)
    assert came_back  # a ranking of all weights would have taken pruned ones, so this is a case that tells


def test_best_ranks_the_survivors_alone():
    scores = {"a": torch.tensor([5.0, 0.0, 3.0, 0.0]), "b": torch.tensor([4.0, 0.0])}
    alive = {"a": torch.tensor([False, False, True, True]), "b": torch.tensor([True, True])}
    mask = best(scores, 4, alive)
    assert mask["a"].tolist() == [False, False, True, True] and mask["b"].tolist() == [True, True]
    with pytest.raises(ValueError, match="only 4 survive"):
        best(scores, 5, alive)


def test_inverted_scores_keep_what_the_method_would_prune():
    """At half of the weights the two masks of a ranking part the network between them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    scores = snip(model, torch.randn(16, 6), torch.randint(2, (16,)))
    half = sum(score.numel() for score in scores.values()) // 2
    kept, left = best(scores, half), best(at_init.inverted(scores), half)
    assert all(torch.equal(kept[name], ~left[name]) for name in scores)
    one = synflow(model, (6,), half, rounds=1)
    other = synflow(model, (6,), half, rounds=1, invert=True)
    assert all(torch.equal(one[name], ~other[name]) for name in one)


def test_synflow_inverted_keeps_its_count_and_less_flow_than_a_random_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False))

    first, last = (model[index].weight.detach() for index in (0, 2))

    def flow(mask):
        return float((last.abs() * mask["2.weight"] @ (first.abs() * mask["0.weight"])).sum())

    masks = [synflow(model, (20,), 250, invert=invert) for invert in (False, True)]
    assert [sum(int(kept.sum()) for kept in mask.values()) for mask in masks] == [250, 250]
    random = {name: torch.rand(kept.shape) < 0.5 for name, kept in masks[0].items()}
    assert flow(masks[1]) < flow(random) < flow(masks[0])
