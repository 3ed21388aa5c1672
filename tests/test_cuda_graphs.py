"""On a GPU: whole steps as CUDA graphs, in every precision, through `fit` and the command line."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.cli import main
from supermask.data import Loader
from supermask.data.mapped import MappedImages
from supermask.training import cuda_graphs as graphs
from supermask.training.loop import DivergedError, Schedule, fit

from .test_graphs import STEPS, Looking, batches, make

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def networks_on_the_gpu(monkeypatch):
    """`make` builds its networks on the GPU, in channels_last and without dropout."""
    randomize = sm.randomize_

    def build(model, *args, **options):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return randomize(model.cuda().to(memory_format=torch.channels_last), *args, **options)

    monkeypatch.setattr(sm, "randomize_", build)


@pytest.fixture
def captures(monkeypatch):
    """A list that grows by one for every graph."""
    made, capture = [], graphs.CudaRecorder.capture

    def counted(self, call):
        made.append(None)
        return capture(self, call)

    monkeypatch.setattr(graphs.CudaRecorder, "capture", counted)
    return made


def on_gpu(step: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batches(step, count)
    return images.cuda().contiguous(memory_format=torch.channels_last), labels.cuda()


def train(model, optimizer, **options):
    options = {"steps": STEPS, "schedule": Schedule("cosine", STEPS, warmup=2), "evaluate_every": 5} | options
    return fit(model, optimizer, options.pop("batches", on_gpu), **options).history


@pytest.mark.parametrize("amp", ["none", "bf16", "pure-bf16"])
@pytest.mark.parametrize(
    "kind",
    ["edge-popup", "biprop", "signed-supermask", "norms", "adam-search", "sgd", "hold", "adam", "adamw"],
)
def test_replays_train_as_the_steps_would(captures, kind, amp):
    options = {"amp": amp, "clip": 1.0, "label_smoothing": 0.1}
    (eager, plain), (model, optimizer) = make(kind, fused=True), make(kind)
    expected = train(eager, plain, **options)
    found = train(model, optimizer, **options, cuda_graphs=True)
    assert len(captures) == 1 and optimizer.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
    for one, other in zip(found, expected, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
    if isinstance(optimizer, sm.Search):
        assert optimizer.steps == STEPS and optimizer.ticket().strong
        for name, mask in plain.mask.items():
            assert (mask != optimizer.mask[name]).float().mean() < 0.02
            assert int(mask.sum()) == int(optimizer.mask[name].sum())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    train(model, optimizer, steps=2, schedule=None)


def test_batches_of_other_shapes_and_a_second_training(captures):
    model, optimizer = make("edge-popup")
    for _ in range(2):
        train(
            model, optimizer, batches=lambda step: on_gpu(step, 5 if step in (1, 6) else 8), cuda_graphs=None
        )
    assert len(captures) == 2
    for name, mask in optimizer.mask.items():
        found = sm.Ticket.from_model(model, optimizer.mask).mask()[name]
        assert torch.equal(found, mask.cpu()) and int(mask.sum()) == optimizer.keep[name]


def test_divergence_is_seen_at_the_next_record(captures):
    model, optimizer = make("sgd")

    def poisoned(step):
        images, labels = on_gpu(step)
        return images * (float("nan") if step == 6 else 1.0), labels

    with pytest.raises(DivergedError, match="before step 10"):
        train(model, optimizer, batches=poisoned, cuda_graphs=True)


def test_a_step_that_waits_runs_without_a_graph(captures):
    model = sm.randomize_(Looking(), "kaiming_normal", seed=3)
    search = sm.EdgePopup(model, density=0.4, lr=0.3, momentum=0.9)
    torch.cuda.manual_seed(7)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(7)
    with pytest.warns(UserWarning, match="cannot be captured"):
        train(model, search, cuda_graphs=None)
    assert search.steps == STEPS and search.ticket().strong
    assert torch.equal(torch.rand(2, device="cuda"), expected), "the generator is as it was"


def source(name: str, device: str = "cuda") -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """Batches that lie there, or those of a loader: where its images are, and how it changes them.

    The loaders cut and colour three channels, of which the network sees the first.
    """
    if name == "preloaded":
        return [on_gpu(step) for step in range(STEPS)].__getitem__
    place, augment = name.split()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 12, 12, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (40,), generator=generator)
    loader = Loader(
        MappedImages(pixels, torch.arange(40), labels),
        **{"batch_size": 8, "seed": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 8},
        **{"device": device, "channels_last": True, "stream": place == "streaming"},
        augment=augment,  # type: ignore[arg-type]
    )

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = loader.batch(step)
        return images[:, :1], labels

    return batch


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("amp", ["none", "bf16", "pure-bf16"])
@pytest.mark.parametrize(
    "data",
    [
        *("preloaded", "resident resized-crop-colour"),
        *("streaming resized-crop-colour", "streaming crop-flip"),
    ],
)
@pytest.mark.parametrize("kind", ["edge-popup", "sgd", "hold"])
def test_nothing_in_the_loop_waits_for_the_device(kind, data, amp):
    """Steps 5 to 9, of which step 6 begins an epoch of the loaders; what comes first, allocates."""
    model, optimizer = make(kind)
    loaded, seen = source(data), []

    def watch(step: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if 4 <= step < 9 else "default")
        seen.append(torch.cuda.get_sync_debug_mode())

    try:
        train(model, optimizer, batches=loaded, amp=amp, on_step=watch, evaluate_every=0, clip=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == [2 if 4 <= step < 9 else 0 for step in range(1, STEPS + 1)]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_wait_for_the_device_would_be_seen():
    model, optimizer = make("sgd")

    def waiting(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = on_gpu(step)
        torch.cuda.set_sync_debug_mode("error" if step == 5 else "default")
        return images * images.amax().item(), labels

    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            train(model, optimizer, batches=waiting, evaluate_every=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["bf16", "pure-bf16"])
def test_compiled_steps_are_captured(captures, amp):
    model, optimizer = make("edge-popup")
    train(torch.compile(model), optimizer, amp=amp, cuda_graphs=True)
    assert len(captures) == 1 and optimizer.ticket().strong


@pytest.mark.parametrize("flags", [[], ["--amp", "pure-bf16"], ["--no-cuda-graphs", "--no-channels-last"]])
def test_compare_with_and_without_graphs(captures, tmp_path, flags):
    arguments = "compare --epochs 2 --densities 0.3 --seeds 0 --device cuda --model conv-2"
    assert main([*arguments.split(), *flags, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 9 and bool(captures) == ("--no-cuda-graphs" not in flags)
