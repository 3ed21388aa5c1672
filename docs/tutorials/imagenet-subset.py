# %% [markdown]
# # A subset of ImageNet
#
# ImageNet, Imagenette or a folder of your own pictures is read the same way: a folder with `train/` and
# `val/` (or `test/`), and in each a folder for every class. This tutorial makes a small one, so that it
# runs anywhere; the commands are those for the real one.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

import supermask as sm
from supermask.cli import main
from supermask.data import Selection, load_data

# %% [markdown]
# ## A folder of pictures
#
# Four classes of shapes in random places, sizes and colours, 100 pictures a class to train on.

# %%
draw = np.random.default_rng(0)


def picture(kind: str) -> Image.Image:
    light = int(draw.integers(0, 60))
    image = Image.fromarray(draw.integers(light, light + 60, (72, 96, 3)).astype("uint8"))
    colour = tuple(int(value) for value in draw.integers(140, 256, 3))
    size = int(draw.integers(24, 48))
    left, top = int(draw.integers(0, 96 - size)), int(draw.integers(0, 72 - size))
    box, pen = (left, top, left + size, top + size), ImageDraw.Draw(image)
    if kind == "disc":
        pen.ellipse(box, fill=colour)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=6)
    elif kind == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(left + size / 2, top), (left, top + size), (left + size, top + size)], fill=colour)
    return image


kinds = ("disc", "ring", "square", "triangle")
for split, count in (("train", 100), ("val", 25)):
    for kind in kinds:
        folder = Path("shapes", split, kind)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(kind).save(folder / f"{number:03}.png")

figure, axes = plt.subplots(1, 4, figsize=(8, 2))
for axis, kind in zip(axes, kinds, strict=True):
    axis.imshow(Image.open(Path("shapes", "train", kind, "000.png")))
    axis.set_title(kind)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Some classes, and some pictures of each
#
# `--classes` takes names, or files with one name a line, such as the lists of published subsets.
# `--per-class-fraction` takes a share of each class's training images, the same ones every time. Pictures
# are decoded once, scaled and cropped to `--image-size`, and kept in a cache folder. From ImageNet:
#
# ```sh
# supermask search --data imagenet --data-root /data --classes n01440764 n02102040 n02979186 \
#     --per-class-fraction 0.1 --image-size 64 --model resnet-18-cifar --density 0.3 --out runs/imagenet
# ```
#
# In Python the same choice is a `Selection`:

# %%
chosen = Selection(classes=("disc", "ring", "triangle"), per_class_fraction=0.5)
data = load_data("shapes", image_size=32, selection=chosen)
print(data.classes, len(data.train), "training images", data.train.shape)

# %% [markdown]
# ## The search
#
# An untrained subnetwork of Conv-4 for three of the four classes. The validation split is taken from the
# training images; `val/` is looked at once, when the search has ended.

# %%
command = """
search --data shapes --classes disc ring triangle --image-size 32
       --model conv-4 --model-args width=0.5 --density 0.3 --epochs 20 --batch-size 32
       --threads 1 --out runs/shapes
"""
assert main(command.split()) == 0

# %% [markdown]
# ## The ticket
#
# It records which pictures it was made on, and knows how to build its network. `eval` takes the same
# classes again, so that a ticket is never measured on others by mistake.

# %%
(path,) = Path("runs/shapes/runs").glob("*/final.ticket")
assert main(["eval", str(path), "--data", "shapes"]) == 0
sm.Ticket.load(path)

# %% [markdown]
# [Data](../data.md) has the rest: corrupt and missing images, resized crops with `--stored-size`, streams
# for sets that do not fit into memory, and how fast all of it is.
