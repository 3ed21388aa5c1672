"""The methods that reports know: label, group, look and one sentence each, in the order of the tables.

A look is a colour, a marker and a dash pattern. No two methods share all three, and within a group no two
share a colour, unless one is a variant of the other: then its dashes and its marker tell them apart.
"""

from supermask.report.methods.method import Method

# Hues of Okabe and Ito first, which colour-blind readers can tell apart; the controls are greys that differ
# in lightness, marker and dashes.
DENSE = (Method("dense", "dense", "dense", "#15191e", "", "Every weight, trained as usual."),)

STRONG = (
    Method(
        "edge-popup", "edge-popup", "strong", "#d55e00", "o",
        "A mask searched over frozen random weights: scores are learned, weights never are.",
    ),
    Method(
        "zhou", "Zhou's supermask", "strong", "#e69f00", "s",
        "A random mask over frozen weights: the probability of each weight to be kept is learned.",
    ),
    Method(
        "signed-supermask", "signed supermask", "strong", "#882255", "D",
        "A mask of −1, 0 and 1 over frozen weights: the search also decides which signs to flip.",
    ),
    Method(
        "biprop", "biprop", "strong", "#009e73", "^",
        "A mask over the signs of frozen weights, with one scale per layer: a binary network.",
    ),
    Method(
        "iterand", "IteRand", "strong", "#999933", "v",
        "edge-popup that now and then draws some of the weights outside the mask anew.",
    ),
    Method(
        "gem-miner", "Gem-Miner", "strong", "#aa4499", "p",
        "Scores between 0 and 1, rounded to a mask; the lowest are frozen out for good along the way.",
    ),
    Method(
        "frozen", "partially frozen", "strong", "#8a5a2b", "X",
        "edge-popup where a random part of the mask follows from the seed, and only the rest is searched.",
    ),
    Method(
        "l0-gates", "L0 gates", "strong", "#117733", "P",
        "A stochastic gate for each frozen weight; the expected number of open gates is penalized.",
    ),
    Method(
        "concrete", "concrete tickets", "strong", "#332288", "d",
        "A binary concrete gate for each frozen weight, with the density as a balanced second objective.",
    ),
)  # fmt: skip

TRAINED = (
    Method(
        "imp", "IMP", "trained", "#0072b2", "s",
        "Iterative magnitude pruning: train, prune the smallest weights, go back to initialization, repeat.",
    ),
    Method(
        "imp-rewind", "IMP with rewind", "trained", "#56b4e9", "D",
        "IMP that goes back to an early step of training instead of initialization.",
    ),
    Method(
        "lr-rewind", "IMP with learning-rate rewind", "trained", "#009e73", "p",
        "IMP that keeps the trained weights and restarts only the learning-rate schedule.",
    ),
    Method(
        "one-shot", "one-shot", "trained", "#cc79a7", "^",
        "The trained dense network pruned once to the density, then trained again from initialization.",
    ),
    Method(
        "filters-l1", "filters by L1", "trained", "#8a5a2b", "h",
        "Whole filters of the trained network pruned by the sum of their weights, the rest trained on.",
    ),
    Method(
        "filters-l1-reset", "filters by L1, reset", "trained", "#999933", "H",
        "The same filters pruned, the rest trained again from initialization.",
    ),
)  # fmt: skip

INITIAL = (
    Method(
        "snip", "SNIP", "initial", "#5e3c99", "o",
        "Keeps the weights to which the loss of the untrained network is most sensitive, then trains.",
    ),
    Method(
        "grasp", "GraSP", "initial", "#117733", "s",
        "Keeps the weights whose removal would most reduce the gradient flow at initialization, then trains.",
    ),
    Method(
        "synflow", "SynFlow", "initial", "#e69f00", "D",
        "Prunes step by step what carries least from input to output, without seeing data, then trains.",
    ),
)  # fmt: skip

MOVING = (
    Method(
        "set", "SET", "moving", "#44aa99", "o",
        "Trains under a mask that drops its smallest weights now and then and grows as many at random.",
    ),
    Method(
        "rigl", "RigL", "moving", "#b2182b", "s",
        "Trains under a mask that drops its smallest weights and grows those of largest gradient.",
    ),
    Method(
        "early-bird", "early bird", "moving", "#8a5a2b", "D",
        "The mask of largest weights, taken as soon as it hardly changes any more in training.",
    ),
    Method(
        "early-bird-channels", "early bird, channels", "moving", "#332288", "H",
        "The same for channels, by the scales of their norms; density counts channels.",
    ),
)  # fmt: skip

CRITERIA = (
    Method(
        "small-final", "small final", "criteria", "#d55e00", "s",
        "Keeps the smallest trained weights: the opposite of magnitude pruning.",
    ),
    Method(
        "large-init", "large initial", "criteria", "#0072b2", "o",
        "Keeps the weights that were largest before training.",
    ),
    Method(
        "small-init", "small initial", "criteria", "#56b4e9", "s",
        "Keeps the weights that were smallest before training.",
    ),
    Method(
        "large-init-large-final", "large initial and final", "criteria", "#009e73", "D",
        "Keeps the weights that were large both before and after training.",
    ),
    Method(
        "small-init-small-final", "small initial and final", "criteria", "#e69f00", "p",
        "Keeps the weights that were small both before and after training.",
    ),
    Method(
        "magnitude-increase", "magnitude increase", "criteria", "#882255", "o",
        "Keeps the weights whose magnitude grew most in training.",
    ),
    Method(
        "random", "random", "criteria", "#59636e", "o",
        "Keeps weights of the trained network at random: what a criterion has to be better than.",
    ),
    Method(
        "movement", "movement", "criteria", "#332288", "s",
        "Keeps the weights that moved furthest in training.",
    ),
)  # fmt: skip

ACTIONS = (
    Method(
        "pruned-at-final", "pruned at final values", "actions", "#b2182b", "o",
        "One-shot whose pruned weights stand still at their trained values instead of at zero.",
    ),
    Method(
        "pruned-at-init", "pruned at initial values", "actions", "#5e3c99", "s",
        "One-shot whose pruned weights stand still at their initial values instead of at zero.",
    ),
    Method(
        "pruned-at-init-unless-shrunk", "initial unless shrunk", "actions", "#44aa99", "D",
        "One-shot whose pruned weights stand at zero if training shrank them, else at their initial values.",
    ),
    Method(
        "kept-signs", "signs only", "actions", "#999933", "p",
        "One-shot whose kept weights start at their initial sign times one constant for each layer.",
    ),
)  # fmt: skip

CONTROLS = (
    Method(
        "dense-long", "dense, as many steps as IMP", "control", "#15191e", "o",
        "Every weight, trained once for as many steps as all rounds of IMP take together.", (0, (2, 1.2)),
    ),
    Method(
        "reinit", "reinit", "control", "#59636e", "v",
        "The mask of the IMP ticket on newly drawn weights, trained.", (0, (4, 1.6)),
    ),
    Method(
        "random-mask", "random mask", "control", "#87909a", "X",
        "A random mask of the same density, trained.", (0, (1.2, 1.4)),
    ),
    Method(
        "shuffled-mask", "shuffled mask", "control", "#a59c8a", "P",
        "The mask of the IMP ticket shuffled within each layer, trained.", (0, (4, 1.4, 1.2, 1.4)),
    ),
    Method(
        "random-mask-frozen", "random mask, frozen weights", "control", "#a97f5f", "d",
        "A random mask on the frozen weights that edge-popup searches; nothing is trained.", (0, (6, 2.4)),
    ),
)  # fmt: skip

KNOWN = (*DENSE, *STRONG, *TRAINED, *INITIAL, *MOVING, *CRITERIA, *ACTIONS, *CONTROLS)

UNZEROED = ("pruned-at-final", "pruned-at-init", "pruned-at-init-unless-shrunk")
"""Methods whose pruned weights are held at other values than zero: fewer weights train, none is gone. The
name of iterative pruning that does so ends alike."""
