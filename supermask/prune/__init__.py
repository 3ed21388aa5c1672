"""Tickets by training and pruning: magnitude pruning, IMP with its rewinds, and the controls."""

from supermask.prune.controls import reinit_seed as reinit_seed
from supermask.prune.controls import shuffle as shuffle
from supermask.prune.hold import hold as hold
from supermask.prune.imp import Round as Round
from supermask.prune.imp import Train as Train
from supermask.prune.imp import apply_mask as apply_mask
from supermask.prune.imp import imp as imp
from supermask.prune.imp import restore as restore
from supermask.prune.imp import snapshot as snapshot
from supermask.prune.magnitude import density_path as density_path
from supermask.prune.magnitude import magnitude as magnitude
from supermask.prune.magnitude import round_counts as round_counts
