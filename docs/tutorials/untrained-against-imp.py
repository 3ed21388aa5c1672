# %% [markdown]
# # Untrained subnetworks against IMP
#
# Two ways lead to a sparse network. Edge-popup keeps random weights as they are and learns which of them to
# use. Iterative magnitude pruning (IMP) trains, drops the smallest weights, rewinds and trains again.
# `compare` runs both with their controls on the same data, network, budget and seeds. This tutorial is a
# short comparison on the embedded digits; the tables of [Results](../results.md) are long ones, made by the
# same command.

# %%
import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

from supermask.cli import main

# %% [markdown]
# In a shell this is `supermask compare --epochs 4 --methods dense edge-popup …`. Every run is kept in
# `runs/compare`: the same command, started again, computes nothing twice. IMP prunes about 40 % in a round
# here, to be done soon; without `--rate` it is 20 %.

# %%
command = """
compare --epochs 4 --methods dense edge-popup random-mask-frozen imp random-mask
        --densities 0.5 0.2 0.05 --rate 0.4 --seeds 0 1 2 --threads 1 --jobs 1 --out runs/compare
"""
assert main(command.split()) == 0

# %% [markdown]
# ## What came out
#
# `results.json` has each run and, under `summary`, mean, minimum and maximum over the seeds. `report.html`
# beside it is a page with the figures.

# %%
results = json.loads(Path("runs/compare/results.json").read_text())
curves = defaultdict(list)
for row in results["summary"]:
    curves[row["method"]].append((row["density"], row["mean"], row["min"], row["max"]))
for method, rows in curves.items():
    print(f"{method:20}", *(f"{density:6.2g}: {100 * mean:5.1f} %" for density, mean, _, _ in rows))

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for method, rows in curves.items():
    density, mean, least, most = (list(column) for column in zip(*sorted(rows), strict=True))
    if method == "dense":
        axes.axhline(mean[0], color="gray", linestyle="--", label="dense, trained")
        continue
    (line,) = axes.plot(density, mean, marker="o", markersize=4, label=method)
    axes.fill_between(density, least, most, color=line.get_color(), alpha=0.15)
axes.set(xlabel="fraction of weights kept", ylabel="test accuracy", xscale="log", ylim=(0, 1))
axes.set_xticks([0.05, 0.2, 0.5], ["0.05", "0.2", "0.5"])
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# How to read it:
#
# - **edge-popup** against **random-mask-frozen**: what the choice of weights is worth. Both use the same
#   untrained weights, and the control guesses.
# - **imp** against **random-mask**: what it is worth to choose by magnitude, when the weights are trained
#   in both.
# - **edge-popup** against **dense**: how near a network without any trained weight comes.
#
# Four epochs of 1,300 images are little. With the defaults (`supermask compare --out runs/full`, thirty
# epochs, more methods) the curves lie closer together; on MNIST the untrained subnetwork comes within
# half a point of the dense network. A difference between two methods is one when the ranges over the seeds
# do not overlap.
#
# ## Bytes
#
# An untrained ticket stores which weights to keep and none of their values.

# %%
for row in results["rows"]:
    if row["seed"] == 0 and row["method"] in ("edge-popup", "imp"):
        print(f"{row['method']:12} at density {row['density']:.2f} {row['ticket_bytes']:8} bytes")
print(f"{'dense weights':28} {results['rows'][0]['dense_bytes']:8} bytes")
