"""Edge-popup as an optimizer against the autograd form, and the contract of every registered search."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import LayerCollapseWarning, NonFiniteScoreError, keep_count

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

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], keeps: list[int], convolutional: bool, raw: bool = False
    ) -> None:
        super().__init__()
        self.raw = raw
        self.weights = [weight.clone() for weight, _ in layers]
        self.scores = nn.ParameterList([nn.Parameter(score.clone()) for _, score in layers])
        self.keeps, self.convolutional = keeps, convolutional

    def forward(self, x: Tensor) -> Tensor:
        for i, (weight, score, keep) in enumerate(zip(self.weights, self.scores, self.keeps, strict=True)):
            masked = weight * KeepLargest.apply(score if self.raw else score.abs(), keep)
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
@pytest.mark.parametrize(("density", "ranking"), [(0.5, "magnitude"), (0.1, "magnitude"), (0.3, "raw")])
def test_the_optimizer_form_equals_the_autograd_form_bitwise(make, rule, density, ranking):
    model = sm.randomize_(make(), "kaiming_normal", seed=3)
    cls, options = RULES[rule]
    search = sm.EdgePopup(model, density=density, base=cls, ranking=ranking, **options)
    pairs = [(search.weights[name], search.scores[name]) for name in search.scores]
    keeps = [keep_count(weight.numel(), density) for weight, _ in pairs]
    twin = AutogradForm(pairs, keeps, make is conv_net, ranking == "raw")
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


def learning_rate(searcher: type[sm.Search]) -> float:
    """A rate for plain SGD at which the method learns a small task in a few steps."""
    return 100.0 if searcher.method == "zhou" else 0.1


@pytest.mark.parametrize("distribution", ["uniform", "global", "erk"])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("method", sorted(name for name, cls in sm.SEARCHES.items() if cls.exact_density))
def test_density_is_exact_after_every_step(method, small_net, batch, density, distribution):
    sm.randomize_(small_net, seed=0)
    search = sm.SEARCHES[method](small_net, density=density, lr=0.1, distribution=distribution)
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
            standing = search.effective(search.mask)[name]
            assert torch.equal(parameter, torch.where(search.mask[name], standing, 0.0))
        else:
            assert torch.equal(parameter, before[name])
    assert any(not torch.equal(first[name], search.mask[name]) for name in first)


def test_a_search_is_deterministic_and_learns(searcher, small_net, batch):
    def run(seed: int) -> tuple[list[float], dict[str, Tensor]]:
        density = 0.5 if searcher.recipe.get("rescale", True) else None
        model = sm.randomize_(copy.deepcopy(small_net), seed=0, density=density)
        adam = searcher.method != "zhou" and searcher.recipe.get("optimizer") == "adam"
        rule = {"base": "adam"} if adam else {"momentum": 0.9}
        search = searcher(model, density=0.5, lr=learning_rate(searcher), seed=seed, **rule)
        return train(model, search, batch, 60), search.scores

    (losses, scores), (again, same), (_, other) = run(0), run(0), run(1)
    assert losses == again and all(torch.equal(scores[name], same[name]) for name in scores)
    assert not torch.equal(scores["hidden.weight"], other["hidden.weight"])
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_the_ticket_of_a_search_rebuilds_its_network(searcher, small_net, batch, tmp_path):
    sm.randomize_(small_net, seed=2)
    search = searcher(small_net, density=0.3, lr=learning_rate(searcher))
    train(small_net, search, batch)
    search.settle()
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "net.ticket"))
    assert ticket.strong
    if searcher.exact_density:
        assert abs(ticket.density - 0.3) < 0.01
    assert ticket.provenance["method"] == searcher.method
    twin = ticket.apply(copy.deepcopy(small_net).apply(scramble)).eval()
    assert torch.equal(twin(batch[0]), small_net.eval()(batch[0]))


def test_a_ticket_between_two_steps_is_the_final_network_and_leaves_the_training_alone(
    searcher, small_net, batch
):
    """What a loop of one's own does: steps, then `ticket`, with nothing called in between."""
    sm.randomize_(small_net, seed=2)
    search = searcher(small_net, density=0.3, lr=learning_rate(searcher))
    train(small_net, search, batch, 5)
    before = {name: value.clone() for name, value in small_net.state_dict().items()}
    ticket = search.ticket()
    assert ticket.strong
    assert all(torch.equal(before[name], value) for name, value in small_net.state_dict().items())
    twin = ticket.apply(copy.deepcopy(small_net).apply(scramble)).eval()
    with search.evaluating():
        assert torch.equal(twin(batch[0]), small_net.eval()(batch[0]))
    search.settle()
    found = ticket.mask()
    assert all(torch.equal(kept, found[name]) for name, kept in search.mask.items())


@pytest.mark.parametrize(
    ("init", "spread"),
    [("kaiming_uniform_sqrt5", 3**-0.5), ("kaiming_uniform", 2**0.5), ("kaiming_normal", 2**0.5)],
)
def test_first_scores_have_the_distribution_that_is_asked_for(init, spread):
    """Standard deviations in units of 1/√fan_in: a = √5 has gain √(1/3), the others √2."""
    model = sm.randomize_(nn.Linear(400, 500), seed=0)
    score = sm.EdgePopup(model, density=0.5, lr=0.1, score_init=init).scores["weight"]
    assert float(score.std()) * 400**0.5 == pytest.approx(spread, rel=0.01)
    assert abs(float(score.mean())) < 0.001
    bounded = float(score.abs().max()) * 400**0.5 <= 3**0.5 * spread + 1e-6
    assert bounded == (init != "kaiming_normal")


def test_first_scores_of_another_kind_are_refused(small_net):
    sm.randomize_(small_net, seed=0)
    with pytest.raises(ValueError, match="score_init must be one of kaiming_uniform_sqrt5"):
        sm.EdgePopup(small_net, density=0.5, lr=0.1, score_init="ones")
    for method in ("zhou", "gem-miner", "signed-supermask", "l0-gates", "concrete", "slot-machine"):
        with pytest.raises(ValueError, match="in a way of its own"):
            sm.SEARCHES[method](small_net, density=0.5, lr=0.1, score_init="kaiming_normal")


OTHER_OPTIONS = {
    "concrete": [{"objective": "kl"}, {"slack": 2.0}, {"seed": 1}],
    "edge-popup": [{"ranking": "raw"}],
    "frozen": [{"pruned": 0.1}, {"seed": 1}],
    "gem-miner": [{"penalty": 1.0}, {"restore": True}],
    "iterand": [{"rate": 0.7}, {"seed": 1}],
    "l0-gates": [{"gates": "neuron"}, {"seed": 1}],
    "signed-supermask": [{"fixed_threshold": True}],
    "slot-machine": [{"options": 4}],
    "zhou": [{"dynamic_rescale": False}, {"seed": 1}],
}


@pytest.mark.parametrize(
    ("method", "options"), [(method, other) for method, others in OTHER_OPTIONS.items() for other in others]
)
def test_the_state_of_a_search_with_other_options_is_refused(method, options, small_net):
    sm.randomize_(small_net, seed=0)
    search = sm.SEARCHES[method](small_net, density=0.3, lr=0.1)
    other = sm.SEARCHES[method](copy.deepcopy(small_net), density=0.3, lr=0.1, **options)
    with pytest.raises(ValueError, match=r"the state is of another|has no .score."):
        other.load_state_dict(search.state_dict())


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

    # The checkpoint alone carries over: scores, masks, statistics of norms and the lr.
    model = sm.randomize_(copy.deepcopy(small_net), "kaiming_normal", seed=0)
    resumed = searcher(model, density=0.3, lr=9.0, base="adam")
    saved = load_tree(tmp_path / "state")
    model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["search"])
    assert resumed.param_groups[0]["lr"] == 0.1
    assert train(model, resumed, batch, 5) == losses
    for name in search.scores:
        assert torch.equal(search.scores[name], resumed.scores[name])
        assert torch.equal(search.mask[name], resumed.mask[name])


# Groups, schedules, rankings.


@pytest.mark.parametrize("method", sorted(name for name, cls in sm.SEARCHES.items() if cls.exact_density))
def test_n_of_m_holds_in_every_group_after_every_step(method, batch):
    model = sm.randomize_(conv_net(), seed=0)
    if method == "frozen":
        with pytest.raises(ValueError, match="no room for distribution='2:4'"):
            sm.SEARCHES[method](model, density=0.5, lr=0.1, distribution="2:4")
        return
    search = sm.SEARCHES[method](model, density=0.5, lr=0.1, distribution="2:4")
    first = {name: mask.clone() for name, mask in search.mask.items()}
    for _ in range(3):
        train(model, search, batch, 1)
        kept = {name: int(mask.sum()) for name, mask in search.mask.items()}
        assert kept == search.keep == {"0.weight": 36, "2.weight": 72, "5.weight": 640}
        assert (search.mask["2.weight"].sum(dim=1) == 2).all()
        assert (search.mask["5.weight"].view(5, 64, 4).sum(dim=2) == 2).all()
        assert search.mask["0.weight"].all()  # one input channel
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter != 0, search.mask[name])
    assert any(not torch.equal(first[name], mask) for name, mask in search.mask.items())


@pytest.mark.parametrize("options", [{"distribution": "global"}, {"density_schedule": "cubic"}])
@pytest.mark.parametrize(("method", "own"), [("zhou", {}), ("signed-supermask", {"fixed_threshold": True})])
def test_a_density_that_emerges_is_neither_spread_nor_scheduled(small_net, method, own, options):
    with pytest.raises(ValueError, match=f"the density of {method} emerges from its scores"):
        sm.SEARCHES[method](sm.randomize_(small_net), density=0.5, lr=0.1, **own, **options)


class Parts(sm.EdgePopup):
    """A subclass never takes the fused step."""


@pytest.mark.parametrize("distribution", ["uniform", "global", "erk"])
def test_a_cubic_schedule_keeps_what_its_formula_says_and_resumes(distribution, batch):
    options = {
        "density": 0.1,
        "lr": 0.1,
        "momentum": 0.9,
        "distribution": distribution,
        "density_schedule": "cubic",
    }

    def make(cls: type[sm.Search], planned: int = 12) -> tuple[nn.Module, sm.Search]:
        model = sm.randomize_(conv_net(), seed=0)
        search = cls(model, **options)
        search.plan(planned, 3)
        return model, search

    model, search = make(sm.EdgePopup)
    total = sum(w.numel() for w in search.weights.values())
    assert sum(int(m.sum()) for m in search.mask.values()) == total
    for step in range(1, 9):
        train(model, search, batch, 1)
        density = 0.1 + 0.9 * (1 - min(step, 6) / 6) ** 3
        assert search.current_density == pytest.approx(density)
        kept = {name: int(m.sum()) for name, m in search.mask.items()}
        if distribution == "uniform":
            sizes = {name: w.numel() for name, w in search.weights.items()}
            assert kept == {name: keep_count(size, search.current_density) for name, size in sizes.items()}
        else:
            assert sum(kept.values()) == keep_count(total, search.current_density)
        if step == 4:
            saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    for cls, start in ((Parts, 0), (sm.EdgePopup, 4)):
        other, again = make(cls)
        if start:
            other.load_state_dict(saved[0])
            again.load_state_dict(saved[1])
        train(other, again, batch, 8 - start)
        for name, score in search.scores.items():
            assert torch.equal(score, again.scores[name])
            assert torch.equal(search.mask[name], again.mask[name])
    assert search.ticket().provenance["density"] == 0.1


@pytest.mark.parametrize("method", ["biprop", "edge-popup", "iterand", "signed-supermask"])
def test_a_cubic_schedule_starts_where_it_is_told_to(method, batch):
    # Multi-Prize Tickets' code: pruned P + (0.5 − P)(1 − t/T)³ of the weights.
    model = sm.randomize_(conv_net(), seed=0)
    options = {"density_schedule": "cubic", "schedule_steps": 5, "initial_density": 0.5}
    search = sm.SEARCHES[method](model, density=0.1, lr=0.1, **options)
    search.plan(8, 4)
    sizes = {name: weight.numel() for name, weight in search.weights.items()}
    pruned = 0.9 + (0.5 - 0.9) * (1 - np.minimum(np.arange(9), 5) / 5) ** 3
    assert pruned[0] == 0.5 and pruned[5] == pruned[8] == 0.9
    for step in range(9):
        if step:
            train(model, search, batch, 1)
        kept = {name: int(mask.sum()) for name, mask in search.mask.items()}
        assert kept == {name: int(np.rint((1 - pruned[step]) * size)) for name, size in sizes.items()}
    model = sm.randomize_(conv_net(), seed=0)
    other = sm.SEARCHES[method](model, density=0.1, lr=0.1, **{**options, "initial_density": None})
    with pytest.raises(ValueError, match="another density_schedule"):
        other.load_state_dict(search.state_dict())


def test_a_schedule_needs_a_length_that_makes_sense(small_net, batch):
    sm.randomize_(small_net)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1, density_schedule="cubic")
    with pytest.raises(ValueError, match=r"give schedule_steps=, or call plan"):
        train(small_net, search, batch, 1)
    sm.randomize_(small_net, seed=1)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1, density_schedule="cubic", schedule_steps=2)
    search.plan(1000, 10)
    train(small_net, search, batch, 2)
    assert search.current_density == 0.5
    sm.randomize_(small_net)
    thin = sm.EdgePopup(small_net, density=0.0005, lr=0.1, density_schedule="cubic", schedule_steps=2)
    with pytest.warns(LayerCollapseWarning, match=r"hidden\.weight \(1 of 1920\)"):
        train(small_net, thin, batch, 2)
    for wrong, match in (
        ({"density_schedule": "linear"}, "'linear'"),
        ({"density_schedule": "cubic", "schedule_steps": 0}, "not 0"),
        ({"schedule_steps": 5}, "constant density"),
        ({"density_schedule": "cubic", "distribution": "2:4"}, "fixes the density"),
        ({"distribution": "1:4"}, r"fixes the density at 0\.25"),
        ({"ranking": "absolute"}, "'absolute'"),
        ({"initial_density": 0.5}, "no meaning for a constant density"),
        ({"density_schedule": "cubic", "initial_density": 0.4}, r"in \[0\.5, 1\], not 0\.4"),
        (
            {"density_schedule": "cubic", "initial_density": 1.5},
            r"initial_density must lie in \(0, 1\], .*1\.5",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            sm.EdgePopup(small_net, density=0.5, lr=0.1, **wrong)
    sm.randomize_(small_net)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1, density_schedule="cubic", schedule_steps=9)
    with pytest.raises(ValueError, match="schedule_steps=9 is more than the 8 steps"):
        search.plan(8, 4)


def test_a_fused_global_step_leaves_every_layer_its_best_weight(batch):
    searches = []
    for cls in (sm.EdgePopup, Parts):
        model = sm.randomize_(conv_net(), seed=0)
        search = cls(model, density=0.2, lr=1e-9, momentum=0.9, distribution="global")
        train(model, search, batch, 1)
        search.scores["2.weight"].mul_(1e-6)
        train(model, search, batch, 2)
        searches.append(search)
    ours, theirs = searches
    assert (
        int(ours.mask["2.weight"].sum()) == 1 and sum(int(m.sum()) for m in ours.mask.values()) == ours.keep
    )
    for name, mask in ours.mask.items():
        assert torch.equal(mask, theirs.mask[name])
        assert torch.equal(ours.masked_parameters[name], theirs.masked_parameters[name])


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
    sparser = sm.EdgePopup(sm.randomize_(copy.deepcopy(small_net)), density=0.3, lr=0.1)
    with pytest.raises(ValueError, match=r"another density \(0.3\) than this search's \(0.5\)"):
        search.load_state_dict(sparser.state_dict())
    adam = sm.EdgePopup(sm.randomize_(copy.deepcopy(small_net)), density=0.5, lr=0.1, base="adam")
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


def test_what_a_device_reports_later_is_raised_where_the_mask_is_read(small_net):
    search = sm.EdgePopup(sm.randomize_(small_net, seed=0), density=0.5, lr=0.1)
    good = copy.deepcopy(search.state_dict())
    search.scores["hidden.weight"][0, 0] = torch.nan
    search.threshold_hints[1, 0] = -(2**63)  # as the CUDA kernels leave it
    for read in (lambda: search.mask, search.ticket, search.state_dict):
        with pytest.raises(NonFiniteScoreError, match=r"hidden\.weight"):
            read()
    search.load_state_dict(good)
    assert search.ticket().kept == search.keep


def test_a_search_goes_on_from_the_scores_of_another_with_new_outputs(batch):
    body = {"1.weight"}
    first = sm.EdgePopup(sm.randomize_(linear_net(), seed=2, density=0.3), density=0.3, lr=0.1)
    train(first.model, first, (batch[0], batch[1]))
    model = linear_net()
    model[3] = nn.Linear(32, 3, bias=False)
    found = {name: score for name, score in first.scores.items() if name in body}
    second = sm.EdgePopup(sm.randomize_(model, seed=2, density=0.3), density=0.3, lr=0.1, scores=found)
    assert torch.equal(model[1].weight, first.model[1].weight)
    assert second.scores["1.weight"] is not first.scores["1.weight"]
    kept = first.mask["1.weight"].clone()
    train(model, second, batch)
    assert torch.equal(first.mask["1.weight"], kept) and second.ticket().strong


def test_scores_that_do_not_fit_are_refused():
    model = sm.randomize_(linear_net(), seed=2)
    for scores, message in (
        (
            {"2.weight": torch.zeros(3)},
            "2.weight, which the search does not mask; it masks 1.weight, 3.weight",
        ),
        (
            {"1.weight": torch.zeros(3, 64)},
            r"1.weight are of shape \(3, 64\); they must be a tensor of shape \(32, 64\)",
        ),
        ({"1.weight": torch.full((32, 64), torch.nan)}, "given for 1.weight are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            sm.EdgePopup(model, density=0.3, lr=0.1, scores=scores)
