# %% [markdown]
# # A new search
#
# A search of your own is one class. It says how gradients of the weights become gradients of scores; the
# base class draws the scores, moves them by any torch optimizer, keeps exactly the density asked for, and
# makes the ticket. This tutorial writes one, tries it, and puts it into a comparison. [A new
# search](../new-search.md) is the reference.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

import supermask as sm
from supermask.cli import main
from supermask.data import Loader, load_data

torch.set_num_threads(1)

# %% [markdown]
# ## The idea
#
# Edge-popup moves the score of a weight w by the gradient of the loss with respect to w, times w. Large
# weights therefore move their scores faster. What if only the sign of the weight counted? With constant
# weights the two are the same up to the learning rate; with normal weights they are not.


# %%
@sm.register_search("sign-popup", label="sign-popup", about="Edge-popup with the sign of each weight.")
class SignPopup(sm.Search):
    """Scores move by -dL/dw · sign(w), and the ones that are largest in magnitude keep their weights."""

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        return [
            grad.to(weight.dtype) * weight.sign() * score.sign()
            for grad, weight, score in zip(grads, weights, scores, strict=True)
        ]


# %% [markdown]
# The derivative runs through |s|, by which weights are ranked, hence the sign of the score. `ranking =
# "raw"` in the class would rank by s itself.
#
# ## Does it learn?
#
# The smallest check: the loss falls, the density is exact, and the weights that are kept are the ones of
# the seed.

# %%
digits = load_data("digits")
loader = Loader(digits.train, batch_size=64, seed=0, mean=digits.mean, std=digits.std)


def losses(search_type: type, init: str, lr: float) -> list[float]:
    model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    sm.randomize_(model, init=init, seed=0, density=0.3)
    drawn = {name: parameter.clone() for name, parameter in model.named_parameters()}
    search = search_type(model, density=0.3, lr=lr, momentum=0.9)
    found = []
    for step in range(200):
        images, labels = loader.batch(step)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        search.step()
        search.zero_grad()
        found.append(loss.item())
    for name, mask in search.mask.items():
        assert int(mask.sum()) == round(0.3 * mask.numel())
        assert torch.equal(dict(model.named_parameters())[name], drawn[name] * mask)
    return found


curves = {
    "edge-popup": losses(sm.EdgePopup, "kaiming_normal", 0.1),
    "sign-popup": losses(SignPopup, "kaiming_normal", 0.01),
}
figure, axes = plt.subplots(figsize=(6, 3))
for name, curve in curves.items():
    axes.plot(curve, label=name)
axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## In a comparison
#
# Once its module is imported, a search is known to the command line under its name, with checkpoints,
# seeds, reports and tickets. From a shell, put the class into a module and import it in a script that calls
# `supermask.cli.main`. A learning rate is chosen on the validation split, never on the test split; here one
# is given for all.

# %%
command = """
search --method sign-popup --init kaiming_normal --lr 0.01 --density 0.3 --epochs 5
       --threads 1 --out runs/sign-popup
"""
assert main(command.split()) == 0

# %% [markdown]
# To bring it into the library, it is one file in `supermask/search/` with a test whose oracle is the
# arithmetic of the paper. The contract tests find it by its registration: exact density, the same bits
# after an interrupt, the same network from the ticket, `torch.compile`, mixed precision, and more.
# [Contributing](../contributing.md) says the rest.
