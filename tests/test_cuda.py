"""On a GPU: the same bits from the same seed, the same masks from the same scores, the same tickets."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.masks import random_mask

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("scheme", ops.SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_generator_gives_the_same_bits(scheme, dtype):
    cpu = ops.fill_random(torch.empty(1_000_003, dtype=dtype), 2**63 + 5, scheme, 0.3, start=77)
    gpu = ops.fill_random(
        torch.empty(1_000_003, dtype=dtype, device="cuda"), 2**63 + 5, scheme, 0.3, start=77
    )
    assert torch.equal(cpu.view(torch.uint8), gpu.cpu().view(torch.uint8))


@pytest.mark.parametrize("keep", [0, 1, 5_000, 99_999, 100_000])
def test_selection_breaks_ties_alike(keep):
    score = torch.randint(-9, 10, (100_000,)).float() / 7
    (cpu,), (gpu,) = ops.select([score], [keep]), ops.select([score.cuda()], [keep])
    assert torch.equal(cpu, gpu.cpu())
    (cpu,), (gpu,) = ops.select_global([score], keep), ops.select_global([score.cuda()], keep)
    assert torch.equal(cpu, gpu.cpu())
    with pytest.raises(ValueError, match="finite"):
        ops.select([torch.tensor([1.0, float("nan")], device="cuda")], [1])


def test_the_same_gradients_give_the_same_masks_and_ticket(small_net, batch):
    twin = copy.deepcopy(small_net).cuda().to(memory_format=torch.channels_last)
    searches = []
    for model in (small_net, twin):
        sm.randomize_(model, "kaiming_normal", seed=3)
        searches.append(sm.EdgePopup(model, density=0.3, lr=0.1))
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(small_net.parameters(), twin.parameters(), strict=True):
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.cuda()
        for search in searches:
            search.step()
        for name, mask in searches[0].mask.items():
            assert torch.equal(mask, searches[1].mask[name].cpu())
    ours, theirs = (search.ticket() for search in searches)
    assert ours.strong and ours.checksum() == theirs.checksum()


def test_autocast_scaler_and_graph_free_training(small_net, batch):
    model = sm.randomize_(small_net.cuda(), seed=0, density=0.5)
    search = sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    images, labels = (t.cuda() for t in batch)
    losses = []
    for _ in range(50):
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(search)
        scaler.update()
        search.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_hold_takes_masks_from_the_cpu(small_net, batch):
    model = small_net.cuda()
    mask = random_mask({"hidden.weight": (20, 96)}, {"hidden.weight": 100}, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sm.hold(optimizer, mask, model)
    for _ in range(3):
        F.cross_entropy(model(batch[0].cuda()), batch[1].cuda()).backward()
        optimizer.step()
    assert not model.hidden.weight.cpu()[~mask["hidden.weight"]].any()
    assert sm.Ticket.from_model(model, mask).kept["hidden.weight"] == 100


def test_a_ticket_loads_onto_the_gpu(tmp_path):
    model = sm.randomize_(sm.create_model("lenet-300-100", in_channels=1, image_size=28).cuda())
    search = sm.EdgePopup(model, density=0.3, lr=0.1)
    network = sm.load(search.ticket().save(tmp_path / "net.ticket"), "cuda")
    x = torch.randn(4, 1, 28, 28, device="cuda")
    assert torch.equal(network(x), model(x))


@pytest.mark.parametrize("flags", [[], ["--amp", "bf16", "--channels-last"], ["--amp", "fp16"]])
def test_compare_on_the_gpu(tmp_path, flags):
    from supermask.cli import main

    arguments = "compare --epochs 2 --densities 0.3 --seeds 0 --device cuda".split()
    assert main([*arguments, *flags, "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert "gpu" in document["machine"]
