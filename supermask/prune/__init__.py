"""Tickets by training and pruning: criteria, IMP with its rewinds, pruning at initialization, whole filters,
controls."""

from supermask.prune.actions import PRUNED as PRUNED
from supermask.prune.actions import check_actions as check_actions
from supermask.prune.actions import pruned_values as pruned_values
from supermask.prune.actions import signs as signs
from supermask.prune.at_init import grasp as grasp
from supermask.prune.at_init import snip as snip
from supermask.prune.at_init import synflow as synflow
from supermask.prune.controls import reinit_seed as reinit_seed
from supermask.prune.controls import shuffle as shuffle
from supermask.prune.criteria import CRITERIA as CRITERIA
from supermask.prune.criteria import best as best
from supermask.prune.criteria import by_criterion as by_criterion
from supermask.prune.criteria import check_criterion as check_criterion
from supermask.prune.criteria import criterion_names as criterion_names
from supermask.prune.dynamic import Rewire as Rewire
from supermask.prune.early_bird import EarlyBird as EarlyBird
from supermask.prune.hold import Hold as Hold
from supermask.prune.hold import hold as hold
from supermask.prune.imp import Round as Round
from supermask.prune.imp import Train as Train
from supermask.prune.imp import apply_mask as apply_mask
from supermask.prune.imp import imp as imp
from supermask.prune.imp import put as put
from supermask.prune.imp import restore as restore
from supermask.prune.imp import snapshot as snapshot
from supermask.prune.magnitude import density_path as density_path
from supermask.prune.magnitude import magnitude as magnitude
from supermask.prune.magnitude import round_counts as round_counts
from supermask.prune.shrink import shrink as shrink
from supermask.prune.structured import FilterLayer as FilterLayer
from supermask.prune.structured import filter_counts as filter_counts
from supermask.prune.structured import filter_layers as filter_layers
from supermask.prune.structured import filter_mask as filter_mask
from supermask.prune.structured import filter_scores as filter_scores
