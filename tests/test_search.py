"""Edge-popup as an optimizer against the autograd form, and the contract of every registered search."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.mask import LayerCollapseWarning, NonFiniteScoreError, keep_count

# The published form: masks inside forward, identity backward through the selection.


class KeepLargest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, magnitude: Tensor, keep: int) -> Tensor:
        mask = torch.zeros_like(magnitude).flatten()
        mask[magnitude.flatten().argsort(descending=True, stable=True)[:keep]] = 1.0
        return mask.view_as(magnitude)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


class AutogradForm(nn.Module):
    """A network whose forward masks its frozen weights by learnable scores."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], keeps: list[int], convolutional: bool) -> None:
        super().__init__()
        self.weights = [weight.clone() for weight, _ in layers]
        self.scores = nn.ParameterList([nn.Parameter(score.clone()) for _, score in layers])
        self.keeps, self.convolutional = keeps, convolutional

    def forward(self, x: Tensor) -> Tensor:
        for i, (weight, score, keep) in enumerate(zip(self.weights, self.scores, self.keeps, strict=True)):
            masked = weight * KeepLargest.apply(score.abs(), keep)
            if masked.dim() == 4:
                x = F.relu(F.conv2d(x, masked, padding=1))
            else:
                x = F.linear(x.flatten(1), masked)
                x = F.relu(x) if i < len(self.weights) - 1 else x
        return x


def linear_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 5, bias=False))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 5, bias=False),
    )


RULES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.003}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [linear_net, conv_net])
@pytest.mark.parametrize("density", [0.5, 0.1])
def test_the_optimizer_form_equals_the_autograd_form_bitwise(make, rule, density):
    model = sm.randomize_(make(), "kaiming_normal", seed=3)
    cls, options = RULES[rule]
    search = sm.EdgePopup(model, density=density, base=cls, **options)
    pairs = [(search.weights[name], search.scores[name]) for name in search.scores]
    keeps = [keep_count(weight.numel(), density) for weight, _ in pairs]
    twin = AutogradForm(pairs, keeps, make is conv_net)
    optimizer = cls(twin.scores.parameters(), **options)
    generator = torch.Generator().manual_seed(0)
    start = [score.clone() for score in search.scores.values()]
    for _ in range(100):
        x = torch.randn(16, 1, 8, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        for network, opt in ((model, search), (twin, optimizer)):
            opt.zero_grad()
            F.cross_entropy(network(x), y).backward()
            opt.step()
    for first, ours, theirs in zip(start, search.scores.values(), twin.scores, strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, first)


def train(model: nn.Module, search: sm.Search, batch, steps: int = 5) -> list[float]:
    losses = []
    for _ in range(steps):
        search.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        search.step()
        losses.append(loss.item())
    return losses


# The contract, for every search in the registry.


@pytest.fixture(params=sorted(sm.SEARCHES))
def searcher(request):
    return sm.SEARCHES[request.param]


@pytest.mark.parametrize("distribution", ["uniform", "global", "erk"])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_density_is_exact_after_every_step(searcher, small_net, batch, density, distribution):
    if not searcher.exact_density:
        pytest.skip("the density of this search emerges")
    sm.randomize_(small_net, seed=0)
    search = searcher(small_net, density=density, lr=0.1, distribution=distribution)
    total = sum(w.numel() for w in search.weights.values())
    for _ in range(4):
        kept = {name: int(m.sum()) for name, m in search.mask.items()}
        assert all(kept.values())
        if distribution == "uniform":
            assert kept == {name: keep_count(w.numel(), density) for name, w in search.weights.items()}
        else:
            assert sum(kept.values()) == keep_count(total, density)
        train(small_net, search, batch, 1)


def test_frozen_weights_stay_and_the_model_holds_the_masked_ones(searcher, small_net, batch):
    sm.randomize_(small_net, "kaiming_normal", seed=1)
    before = {name: p.clone() for name, p in small_net.named_parameters()}
    search = searcher(small_net, density=0.4, lr=0.5, momentum=0.9)
    first = {name: m.clone() for name, m in search.mask.items()}
    train(small_net, search, batch, 20)
    search.settle()
    for name, parameter in small_net.named_parameters():
        if name in search.mask:
            assert torch.equal(search.weights[name], before[name])
            assert torch.equal(parameter, torch.where(search.mask[name], before[name], 0.0))
        else:
            assert torch.equal(parameter, before[name])
    assert any(not torch.equal(first[name], search.mask[name]) for name in first)


def test_a_search_is_deterministic_and_learns(searcher, small_net, batch):
    def run(seed: int) -> tuple[list[float], dict[str, Tensor]]:
        model = sm.randomize_(copy.deepcopy(small_net), seed=0, density=0.5)
        adam = searcher.recipe.get("optimizer") == "adam"
        rule = {"base": "adam"} if adam else {"momentum": 0.9}
        search = searcher(model, density=0.5, lr=0.1, seed=seed, **rule)
        return train(model, search, batch, 60), search.scores

    (losses, scores), (again, same), (_, other) = run(0), run(0), run(1)
    assert losses == again and all(torch.equal(scores[name], same[name]) for name in scores)
    assert not torch.equal(scores["hidden.weight"], other["hidden.weight"])
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_the_ticket_of_a_search_rebuilds_its_network(searcher, small_net, batch, tmp_path):
    sm.randomize_(small_net, seed=2)
    search = searcher(small_net, density=0.3, lr=0.1)
    train(small_net, search, batch)
    search.settle()
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "net.ticket"))
    assert ticket.strong
    if searcher.exact_density:
        assert abs(ticket.density - 0.3) < 0.01
    assert ticket.provenance["method"] == searcher.method
    twin = ticket.apply(copy.deepcopy(small_net).apply(scramble)).eval()
    assert torch.equal(twin(batch[0]), small_net.eval()(batch[0]))


def scramble(module: nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data.fill_(9)


def test_state_dict_continues_bit_for_bit(searcher, small_net, batch, tmp_path):
    from supermask.io import load_tree, save_tree

    sm.randomize_(small_net, "kaiming_normal", seed=0)
    search = searcher(small_net, density=0.3, lr=0.1, base="adam")
    train(small_net, search, batch, 3)
    save_tree(tmp_path / "state", {"model": small_net.state_dict(), "search": search.state_dict()})
    losses = train(small_net, search, batch, 5)

    # The checkpoint alone carries over: the new model starts from other weights and another lr.
    model = sm.randomize_(copy.deepcopy(small_net), seed=77)
    resumed = searcher(model, density=0.3, lr=9.0, base="adam")
    saved = load_tree(tmp_path / "state")
    model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["search"])
    assert resumed.param_groups[0]["lr"] == 0.1
    assert train(model, resumed, batch, 5) == losses
    for name in search.scores:
        assert torch.equal(search.scores[name], resumed.scores[name])
        assert torch.equal(search.mask[name], resumed.mask[name])


def test_evaluating_shows_the_settled_network_and_puts_training_back(searcher, small_net, batch):
    sm.randomize_(small_net, "kaiming_normal", seed=0)
    search = searcher(small_net, density=0.3, lr=0.1)
    train(small_net, search, batch, 3)
    parameters = {name: p.clone() for name, p in small_net.named_parameters()}
    with search.evaluating():
        shown = {name: p.clone() for name, p in small_net.named_parameters()}
    assert all(torch.equal(parameters[name], p) for name, p in small_net.named_parameters())
    twin = copy.deepcopy(search)
    losses = train(small_net, search, batch, 3)
    twin.settle()
    assert all(torch.equal(shown[name], p) for name, p in twin.model.named_parameters())
    assert losses


# Errors.


def test_wrong_arguments_are_refused(small_net):
    for density in (0, 1.5, -1, float("nan")):
        with pytest.raises(ValueError, match="density must lie in"):
            sm.EdgePopup(small_net, density=density, lr=0.1)
    with pytest.raises(ValueError, match="'even'"):
        sm.EdgePopup(small_net, density=0.5, lr=0.1, distribution="even")
    with pytest.raises(ValueError, match="unknown base rule 'lion'"):
        sm.EdgePopup(small_net, density=0.5, lr=0.1, base="lion")
    with pytest.raises(ValueError, match="Adam does not accept"):
        sm.EdgePopup(small_net, density=0.5, lr=0.1, base="adam", momentum=0.9)
    with pytest.raises(ValueError, match=r"train_norms=True"):
        sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1, train_norms=True)
    small_net.hidden.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"hidden\.weight are not finite"):
        sm.EdgePopup(small_net, density=0.5, lr=0.1)


def test_a_nan_gradient_is_an_error_that_leaves_the_model_as_it_was(small_net, batch):
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1)
    train(small_net, search, batch)
    before = {name: p.clone() for name, p in small_net.named_parameters()}
    small_net.conv.weight.grad = torch.full_like(small_net.conv.weight, float("nan"))
    with pytest.raises(NonFiniteScoreError, match=r"conv\.weight"):
        search.step()
    assert all(torch.equal(before[name], p) for name, p in small_net.named_parameters())


def test_a_state_of_another_search_is_refused(small_net):
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1)
    other = sm.EdgePopup(nn.Linear(4, 4), density=0.5, lr=0.1)
    with pytest.raises(ValueError, match="other parameters"):
        search.load_state_dict(other.state_dict())
    sparser = sm.EdgePopup(small_net, density=0.3, lr=0.1)
    with pytest.raises(ValueError, match=r"another density \(0.3\) than this search's \(0.5\)"):
        search.load_state_dict(sparser.state_dict())
    adam = sm.EdgePopup(small_net, density=0.5, lr=0.1, base="adam")
    with pytest.raises(ValueError, match="another base"):
        search.load_state_dict(adam.state_dict())
    state = search.state_dict()
    state["state"][0] = {**state["state"][0], "score": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"conv\.weight has no 'score' of shape \(6, 1, 3, 3\)"):
        search.load_state_dict(state)


def test_scores_start_as_kaiming_uniform_and_never_at_zero(small_net):
    # A score of zero has no gradient under |s|; the generator's uniforms are never zero.
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1)
    score = search.scores["hidden.weight"]
    bound = 96**-0.5
    assert score.abs().max() < bound and score.abs().min() > 0
    assert abs(score.std().item() / (bound / 3**0.5) - 1) < 0.05


def test_trained_norms_are_stored_in_the_ticket(small_net, batch, tmp_path):
    sm.randomize_(small_net, train_norms=True)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1, train_norms=True)
    train(small_net, search, batch)
    assert small_net.norm.weight.ne(1).any() and not small_net.conv.bias.any()
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "net.ticket"))
    assert set(ticket.values) == {"norm.weight", "norm.bias"} and ticket.strong
    twin = ticket.apply(copy.deepcopy(small_net).apply(scramble)).eval()
    assert torch.equal(twin(batch[0]), small_net.eval()(batch[0]))


def test_a_search_has_one_group(small_net):
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1)
    with pytest.raises(ValueError, match="one group of parameters"):
        search.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def test_a_search_close_to_collapse_warns_once_by_name(small_net):
    with pytest.warns(LayerCollapseWarning, match=r"hidden\.weight \(1 of 1920\)") as caught:
        search = sm.EdgePopup(sm.randomize_(small_net), density=0.0005, lr=0.1)
        search.step()
    assert len(caught) == 1
