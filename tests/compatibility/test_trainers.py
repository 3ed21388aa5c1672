"""Training code that knows nothing of searches takes one as its optimizer: trainers, wrappers, averages.

Packages that are not among those of development are looked for; the tests of one that is missing are skipped.
"""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Subset, TensorDataset

import supermask as sm

STEPS = 6


class Net(nn.Module):
    """A perceptron that also says its loss, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.head = nn.Linear(24, 3, bias=False)

    def forward(self, inputs: Tensor, labels: Tensor | None = None):
        logits = self.head(self.body(inputs))
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 12, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


def loader(rows: int = 48) -> DataLoader:
    return DataLoader(Subset(data(), range(rows)), batch_size=8, shuffle=False)


def made() -> tuple[Net, sm.EdgePopup]:
    model = sm.randomize_(Net(), seed=0, density=0.5)
    return model, sm.EdgePopup(model, density=0.5, lr=0.5, momentum=0.9)


def plain(schedule=None, clip: float | None = None, batches=None) -> sm.EdgePopup:
    """What a loop of one's own makes of it: the oracle of all below."""
    model, search = made()
    scheduler = schedule(search) if schedule else None
    for inputs, labels in batches or loader():
        search.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        search.step()
        if scheduler:
            scheduler.step()
    return search


def assert_same(search: sm.Search, expected: sm.Search) -> None:
    assert list(search.scores) == list(expected.scores) and search.steps == expected.steps == STEPS
    for name, score in expected.scores.items():
        assert torch.equal(score, search.scores[name]) and torch.equal(expected.mask[name], search.mask[name])
    ticket = search.ticket()
    assert ticket.strong and torch.equal(
        ticket.apply(Net()).eval()(data().tensors[0]), expected.model.eval()(data().tensors[0])
    )


def linear_decay(search: torch.optim.Optimizer):
    return torch.optim.lr_scheduler.LambdaLR(search, lambda step: 1 - step / STEPS)


# torch itself.


@pytest.mark.parametrize("multi", [None, get_ema_multi_avg_fn(0.5)], ids=["mean", "ema"])
def test_averages_of_torch_are_of_effective_weights(multi):
    model, search = made()
    average = AveragedModel(model, multi_avg_fn=multi)
    rates = SWALR(search, swa_lr=0.05, anneal_epochs=2)
    seen = []
    for inputs, labels in loader():
        F.cross_entropy(model(inputs), labels).backward()
        search.step()
        search.zero_grad()
        average.update_parameters(model)
        rates.step()
        seen.append(model.head.weight.detach().clone())
    assert search.steps == STEPS and search.param_groups[0]["lr"] == pytest.approx(0.05)
    if multi is None:
        assert torch.allclose(average.module.head.weight, torch.stack(seen).mean(dim=0), atol=1e-6)
    update_bn([batch[0] for batch in loader()], average)
    assert torch.isfinite(average(data().tensors[0])).all()
    with pytest.raises(ValueError, match="non-zero weights outside its mask"):
        sm.Ticket.of(average, search.mask)  # a mean of masked networks is no ticket of the last mask


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o, total_iters=2),
                torch.optim.lr_scheduler.CosineAnnealingLR(o, 4),
            ],
            milestones=[2],
        ),
        lambda o: torch.optim.lr_scheduler.ChainedScheduler([torch.optim.lr_scheduler.ExponentialLR(o, 0.9)]),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_schedulers_and_clipping(schedule, clip):
    model, search = made()
    scheduler, rates = schedule(search), []
    for inputs, labels in loader():
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        search.step()
        search.zero_grad()
        rates.append(search.base.param_groups[0]["lr"])
        scheduler.step(1.0) if isinstance(
            scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau
        ) else scheduler.step()
    assert len(set(rates)) > 1 and search.ticket().strong


# Others.


def test_timms_averages():
    timm = pytest.importorskip("timm.utils", reason="timm is not installed")
    model, search = made()
    averages = [timm.ModelEmaV2(model, decay=0.5), timm.ModelEmaV3(model, decay=0.5)]
    for inputs, labels in loader():
        F.cross_entropy(model(inputs), labels).backward()
        search.step()
        search.zero_grad()
        for average in averages:
            average.update(model)
    assert_same(search, plain())
    for average in averages:
        assert torch.isfinite(average.module(data().tensors[0])).all()
        assert list(sm.weights.names.parameters_of(average)) == [n for n, _ in model.named_parameters()]
    assert torch.equal(averages[0].module.head.weight, averages[1].module.head.weight)


@pytest.mark.slow
def test_transformers_trainer(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_steps=STEPS,
        max_grad_norm=0.1,
        report_to=[],
        use_cpu=True,
        save_steps=3,
        logging_steps=100,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [{"inputs": x, "labels": y} for x, y in data()]

    def trainer(stop: int | None = None):
        model, search = made()
        made_trainer = transformers.Trainer(
            model,
            arguments,
            train_dataset=rows,
            optimizers=(search, linear_decay(search)),
        )
        made_trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        return made_trainer, search

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, search = trainer()
        first.train()
        expected = plain(linear_decay, clip=0.1)
        assert_same(search, expected)
        resumed, search = trainer()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(search, expected)


@pytest.mark.slow
def test_lightning_trainer_and_checkpoints(tmp_path: Path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = sm.randomize_(Net(), seed=0, density=0.5)
            self.seen: list[list[Tensor]] = []

        def training_step(self, batch, index):
            self.seen.append(batch)
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            self.search = sm.EdgePopup(self.net, density=0.5, lr=0.5, momentum=0.9)
            return {
                "optimizer": self.search,
                "lr_scheduler": {"scheduler": linear_decay(self.search), "interval": "step"},
            }

    def trainer(steps: int):
        return lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=0.1,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Module()
        first = trainer(STEPS)
        first.fit(module, loader())
        expected = plain(linear_decay, clip=0.1)
        assert_same(module.search, expected)
        wrapped = module.optimizers()
        assert isinstance(wrapped, sm.Search) and wrapped.ticket().strong
        stopped, resumed = Module(), Module()
        half = trainer(STEPS // 2)
        half.fit(stopped, loader(rows=24))
        half.save_checkpoint(tmp_path / "half.ckpt")
        assert stopped.search.steps == STEPS // 2
        whole = trainer(STEPS)
        whole.fit(resumed, loader(rows=24), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    # Lightning decides which batches follow a checkpoint.
    assert_same(resumed.search, plain(linear_decay, clip=0.1, batches=stopped.seen + resumed.seen))


@pytest.mark.slow
def test_fabric_wraps_model_and_search():
    fabric_of = pytest.importorskip("lightning.fabric", reason="lightning is not installed")
    fabric = fabric_of.Fabric(accelerator="cpu", devices=1)
    model, search = made()
    network, optimizer = fabric.setup(model, search)
    for inputs, labels in fabric.setup_dataloaders(loader()):
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(network(inputs), labels))
        optimizer.step()
    assert_same(search, plain())
    assert list(sm.weights.names.parameters_of(network)) == [name for name, _ in model.named_parameters()]
    assert torch.equal(sm.randomize_(network, seed=4).head.weight, sm.randomize_(Net(), seed=4).head.weight)


@pytest.mark.slow
def test_fabric_and_accelerate_hold_masks():
    fabric_of = pytest.importorskip("lightning.fabric", reason="lightning is not installed")
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    for setup in (
        fabric_of.Fabric(accelerator="cpu", devices=1).setup,
        accelerate.Accelerator(cpu=True).prepare,
    ):
        model = Net()
        kept = torch.rand(3, 24) > 0.5
        network, optimizer = setup(model, torch.optim.AdamW(model.parameters(), lr=0.1))
        sm.hold(optimizer, {"head.weight": kept}, network)
        for inputs, labels in loader():
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        assert not model.head.weight[~kept].any() and model.head.weight[kept].all()


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate_prepares_a_search(tmp_path: Path, accumulate: int):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model, search = made()
    network, optimizer, batches, scheduler = accelerator.prepare(
        model, search, loader(), linear_decay(search)
    )
    for inputs, labels in batches:
        with accelerator.accumulate(network):
            accelerator.backward(F.cross_entropy(network(inputs), labels))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert search.steps == STEPS // accumulate
    if accumulate == 1:
        assert_same(search, plain(linear_decay, clip=0.1))
    before = copy.deepcopy(search.scores)
    accelerator.save_state(str(tmp_path), safe_serialization=False)
    search.scores["head.weight"].zero_()
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(before[name], score) for name, score in search.scores.items())
