# %% [markdown]
# # Packing and benchmarking
#
# After the search a ticket's network is an ordinary dense one: same speed, same memory. Packed, it computes
# straight from the bits. This tutorial packs a network, checks it, times it, and writes it for onnxruntime.
# The times are those of the machine that built this page; [One run, fast](../performance.md) has the
# measured tables.

# %%
import platform
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.benchmark import Timer

import supermask as sm
from supermask import ops

torch.set_num_threads(1)
print(f"{platform.machine()} with {ops.instruction_set()}, torch {torch.__version__}")

# %% [markdown]
# ## A ticket
#
# A wide perceptron under a random mask will do: speed does not depend on what was learned.
# `signed_constant` weights are of one magnitude a layer, so that one bit says whether a weight is kept and
# another its sign.

# %%
model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=28, width=8.0).eval()
sm.randomize_(model, init="signed_constant", seed=0, density=0.1)
search = sm.EdgePopup(model, density=0.1)
ticket = search.ticket()
ticket

# %% [markdown]
# ## Packed
#
# `pack` gives a copy whose layers hold bits. Exact activations give the same function up to the order of
# sums in float32. With `int8` each row of inputs is rounded to 255 levels, and the sums are exact integers.

# %%
images = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
networks = {
    "dense": model,
    "packed": sm.pack(model, ticket),
    "packed, int8 inputs": sm.pack(model, ticket, activations="int8"),
}
networks["packed"]

# %%
with torch.inference_mode():
    expected = model(images)
    for name, network in networks.items():
        outputs = network(images)
        error = float((outputs - expected).abs().max() / expected.abs().max())
        same = float((outputs.argmax(1) == expected.argmax(1)).float().mean())
        print(f"{name:20} largest error {error:.1e}, same answer for {100 * same:.0f} % of the images")

# %% [markdown]
# ## Time
#
# `torch.utils.benchmark` repeats a call and reports the median, on one thread here. Small batches wait for
# weights to come from memory, which bits shorten most; large ones are bound by arithmetic.


# %%
def microseconds(network: torch.nn.Module, batch: int) -> float:
    with torch.inference_mode():
        timer = Timer("network(images)", globals={"network": network, "images": images[:batch]})
        return 1e6 * timer.blocked_autorange(min_run_time=0.3).median


batches = (1, 8, 64)
times = {name: [microseconds(network, batch) for batch in batches] for name, network in networks.items()}
for name, row in times.items():
    print(f"{name:20}", *(f"batch {b}: {t:8.0f} µs" for b, t in zip(batches, row, strict=True)))

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for name, row in list(times.items())[1:]:
    gains = [dense / own for dense, own in zip(times["dense"], row, strict=True)]
    axes.plot(range(len(batches)), gains, marker="o", label=name)
axes.axhline(1, color="gray", linestyle="--")
axes.set(xlabel="batch", ylabel="times faster than dense", ylim=(0, None))
axes.set_xticks(range(len(batches)), map(str, batches))
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## Bytes, and other runtimes
#
# The file holds masks at their entropy. For onnxruntime the linear layers can hold two bits a weight; the
# file is run and compared before it is handed out.

# %%
ticket.save("wide.ticket")
ticket.to_onnx("wide.onnx")
ticket.to_onnx("wide-2bit.onnx", weights="2bit")
ticket.to_pt2("wide.pt2")
for name in ("wide.ticket", "wide-2bit.onnx", "wide.onnx", "wide.pt2"):
    print(f"{name:15} {Path(name).stat().st_size / 1e6:6.2f} MB")

# %%
import onnxruntime

session = onnxruntime.InferenceSession("wide-2bit.onnx", providers=["CPUExecutionProvider"])
(outputs,) = session.run(None, {"input": images.numpy()})
assert torch.allclose(torch.from_numpy(outputs), expected, rtol=1e-3, atol=1e-4)
