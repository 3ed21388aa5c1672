"""Pruning at initialization against closed forms, finite differences and path sums, in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supermask.prune import grasp, snip, synflow
from supermask.prune.at_init import TEMPERATURE, synaptic_flow


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
