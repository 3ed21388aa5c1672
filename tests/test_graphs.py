"""Whole steps as graphs: what is captured, when, and that replays train as the steps themselves would."""

import copy

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.io import load_tree
from supermask.prune import Rewire
from supermask.training import cuda_graphs as graphs
from supermask.training.loop import Checkpoint, DivergedError, Schedule, fit

from .fake_graph import FakeRecorder
from .test_train import Stop

STEPS = 11


class Net(nn.Module):
    """Convolution, norm, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(96, 3),
        )

    def forward(self, x):
        return self.layers(x)


def batches(step: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) * 20).long().remainder(3)


@pytest.fixture
def recorders(monkeypatch):
    """The recorders that were made in place of CUDA's."""
    made = []

    def make(device):
        made.append(FakeRecorder())
        return made[-1]

    monkeypatch.setattr(graphs, "recorder_for", make)
    return made


def make(kind: str, **options: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = sm.randomize_(Net(), "kaiming_normal", seed=3, train_norms=kind == "norms")
    if kind in sm.SEARCHES:
        return model, sm.SEARCHES[kind](model, density=0.4, lr=0.3, momentum=0.9, **options)
    if kind in ("global", "2:4"):
        distribution = {"global": {"density": 0.4}, "2:4": {"density": 0.5, "exclude": ["layers.0.weight"]}}[
            kind
        ]
        return model, sm.EdgePopup(model, distribution=kind, lr=0.3, **distribution, **options)
    if kind in ("norms", "adam-search"):
        more = {"train_norms": True, "momentum": 0.9} if kind == "norms" else {"base": "adam"}
        return model, sm.EdgePopup(model, density=0.4, lr=0.3, **more, **options)
    model.requires_grad_(True)
    if kind in ("adam", "adamw"):
        rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
        return model, rule(model.parameters(), lr=0.01, **options)
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, **options}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    if kind == "hold":
        named = {name: p for name, p in model.named_parameters() if p.dim() > 1}
        generator = torch.Generator().manual_seed(0)
        mask = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in named.items()}
        sm.hold(optimizer, mask, model, {name: 2 * p.detach() for name, p in named.items()})
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, **options: object) -> list[dict[str, float]]:
    torch.manual_seed(7)
    options = {"steps": STEPS, "schedule": Schedule("cosine", STEPS, warmup=2), "evaluate_every": 5} | options
    return fit(model, optimizer, options.pop("batches", batches), **options).history


def same(one: nn.Module, other: nn.Module, rtol: float = 0.0) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=rtol, atol=rtol / 10), name


@pytest.mark.parametrize("amp", ["none", "bf16", "pure-bf16"])
@pytest.mark.parametrize(
    "kind",
    [
        *("edge-popup", "global", "2:4", "biprop", "signed-supermask", "norms", "adam-search"),
        *("sgd", "hold", "adam", "adamw"),
    ],
)
def test_replays_train_as_the_steps_would(recorders, kind, amp):
    options = {"amp": amp, "clip": 1.0, "label_smoothing": 0.1}
    (eager, plain), (model, optimizer) = make(kind, fused=True), make(kind)
    history = train(eager, plain, **options)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(None))
    # On the host Adam's lr has the digits of a double.
    rtol = 1e-3 if "adam" in kind else 0.0
    for entry, expected in zip(train(model, optimizer, **options, cuda_graphs=True), history, strict=True):
        assert entry == pytest.approx(expected, rel=rtol)
    same(eager, model, rtol)
    (recorder,) = (r for r in recorders if r.captures)
    assert recorder.asides == graphs.WARM_UP and recorder.replays == STEPS - graphs.WARM_UP
    assert len(calls) == graphs.WARM_UP + 1  # Python saw the capture, and no step after it
    group = optimizer.param_groups[0]
    assert type(group["lr"]) is float and not group["fused"] and not group.get("capturable")
    if isinstance(optimizer, sm.Search):
        assert optimizer.steps == STEPS and optimizer.ticket().strong
        for name, mask in plain.mask.items():
            assert torch.equal(optimizer.mask[name], mask)
        assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.3)
    # What comes next takes ordinary steps again.
    train(model, optimizer, steps=1, schedule=None)


def test_the_fake_knows_a_rate_of_the_host_from_one_of_the_device(recorders, monkeypatch):
    (eager, plain), (model, optimizer) = make("sgd", fused=True), make("sgd")

    def on_the_host(optimizer, rates):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    train(eager, plain)
    monkeypatch.setattr("supermask.training.loop.set_rates", on_the_host)
    train(model, optimizer, cuda_graphs=True)
    assert not torch.equal(eager.layers[0].weight, model.layers[0].weight)


@pytest.mark.parametrize("kind", ["edge-popup", "adam-search", "sgd", "adam"])
@pytest.mark.parametrize("stop_at", [2, 7])
@pytest.mark.parametrize("graph_at_first", [False, True])
def test_an_interrupted_training_goes_on_with_or_without_a_graph(
    recorders, tmp_path, kind, stop_at, graph_at_first
):
    def stop(step: int) -> None:
        if step == stop_at:
            raise Stop

    checkpoint = {"checkpoint": Checkpoint(tmp_path / "state", seconds=0.0)}
    model, optimizer = make(kind, **({} if graph_at_first else {"fused": True}))
    with pytest.raises(Stop):
        train(model, optimizer, on_step=stop, **checkpoint, cuda_graphs=graph_at_first)
    if graph_at_first:
        saved = load_tree(tmp_path / "state")["optimizer"]
        for groups in (saved["param_groups"], saved.get("base", saved)["param_groups"]):
            assert not groups[0]["fused"] and isinstance(groups[0]["lr"], float)
    resumed, optimizer = make(kind, **({"fused": True} if graph_at_first else {}))
    if graph_at_first:
        # The checkpoint has the rule's ordinary options, and goes on with those.
        train(resumed, optimizer, **checkpoint)
    else:
        train(resumed, optimizer, **checkpoint, cuda_graphs=True)
    whole, optimizer = make(kind, fused=True)
    train(whole, optimizer)
    same(whole, resumed, 1e-3)


def test_a_batch_of_another_shape_takes_an_ordinary_step(recorders):
    def uneven(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return batches(step, 5 if step in (1, 6, 7) else 8)

    (eager, plain), (model, optimizer) = make("edge-popup", fused=True), make("edge-popup")
    train(eager, plain, batches=uneven)
    train(model, optimizer, batches=uneven, cuda_graphs=None)
    same(eager, model)
    for name, mask in plain.mask.items():
        assert torch.equal(optimizer.mask[name], mask)
    assert recorders[-1].captures == 1 and recorders[-1].asides == graphs.WARM_UP + 2


class Looking(Net):
    def forward(self, x):
        return super().forward(x) * (1.0 + float(x.mean() > 9.0))


def test_a_step_that_waits_for_the_device_runs_without_a_graph(recorders):
    torch.manual_seed(0)
    model = sm.randomize_(Looking(), "kaiming_normal", seed=3)
    twin = copy.deepcopy(model)
    searches = [sm.EdgePopup(m, density=0.4, lr=0.3, momentum=0.9, fused=True) for m in (model, twin)]
    with pytest.warns(UserWarning, match="_local_scalar_dense"):
        train(model, searches[0], cuda_graphs=None)
    train(twin, searches[1])
    same(model, twin)
    assert searches[0].steps == STEPS
    with pytest.raises(RuntimeError, match="leave out cuda_graphs"):
        train(model, searches[0], cuda_graphs=True)


def test_divergence_is_seen_at_the_next_record(recorders):
    model, optimizer = make("sgd")

    def poisoned(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batches(step)
        return images * (float("nan") if step == 6 else 1.0), labels

    steps = []
    with pytest.raises(DivergedError, match="before step 10"):
        train(model, optimizer, batches=poisoned, on_step=steps.append, cuda_graphs=True)
    assert steps[-1] == 10


@pytest.mark.parametrize(
    ("kind", "options", "amp", "reason"),
    [
        ("sgd", {}, "fp16", "GradScaler"),
        ("zhou", {}, "none", "draws or decides"),
        ("iterand", {}, "none", "draws or decides"),
        ("frozen", {}, "none", "draws or decides"),
        (
            "edge-popup",
            {"density_schedule": "cubic", "schedule_steps": 5},
            "none",
            "density_schedule='cubic'",
        ),
        ("signed-supermask", {"fixed_threshold": True}, "none", "draws or decides"),
        ("edge-popup", {"base": torch.optim.RMSprop}, "none", "RMSprop does not read"),
    ],
)
def test_what_no_graph_can_hold_is_refused_with_a_reason(recorders, kind, options, amp, reason):
    model, optimizer = make(kind, **options)
    with pytest.raises(ValueError, match=reason):
        train(model, optimizer, amp=amp, cuda_graphs=True)
    train(model, optimizer, amp=amp, steps=5, cuda_graphs=None)
    assert not any(recorder.captures for recorder in recorders)


def test_hooks_that_decide_on_the_host_are_refused(recorders):
    model, optimizer = make("sgd")
    mask = {"layers.6.weight": torch.rand(3, 96) < 0.5}
    handle = Rewire(optimizer, mask, model, every=2, until=10)
    assert "Rewire decides" in graphs.obstacle(model, optimizer, "none")
    handle.remove()
    assert graphs.obstacle(model, optimizer, "none") is None
    optimizer.register_step_post_hook(lambda *_: None)
    assert "<lambda> decides" in graphs.obstacle(model, optimizer, "none")


def test_a_subclass_must_say_itself_that_a_graph_can_hold_it(recorders):
    class Other(sm.EdgePopup):
        pass

    class Same(sm.EdgePopup, graphable=True):
        pass

    models = [sm.randomize_(make("sgd")[0]) for _ in range(2)]
    searches = [cls(model, density=0.4, lr=0.3) for cls, model in zip((Other, Same), models, strict=True)]
    reasons = [graphs.obstacle(search.model, search, "none") for search in searches]
    assert "draws or decides" in reasons[0] and reasons[1] is None


def test_a_new_mask_reaches_the_graph_that_holds_the_old_one(recorders):
    model, optimizer = make("sgd")
    named = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    handle = sm.hold(
        optimizer, {name: torch.ones_like(p, dtype=torch.bool) for name, p in named.items()}, model
    )

    def prune(step: int) -> None:
        if step == STEPS - 2:
            handle.set_mask({name: torch.zeros_like(p, dtype=torch.bool) for name, p in named.items()})

    train(model, optimizer, cuda_graphs=True, on_step=prune)
    assert any(recorder.captures for recorder in recorders)
    assert all(not p.any() for p in named.values())


def test_without_a_gpu_there_are_no_graphs():
    model, optimizer = make("sgd")
    with pytest.raises(ValueError, match="the model is on cpu"):
        train(model, optimizer, cuda_graphs=True)
    train(model, optimizer, cuda_graphs=None)
