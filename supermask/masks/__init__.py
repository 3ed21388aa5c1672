"""Masks: how many weights each layer keeps, which ones, and how far two masks are apart.

A mask maps parameter names to bool tensors, True where the weight is kept. A layer of n weights at
density d keeps exactly k = round(d·n) of them (halves to even), never fewer than one.
"""

from supermask.masks.densities import DENSITY_SCHEDULES as DENSITY_SCHEDULES
from supermask.masks.densities import check_density as check_density
from supermask.masks.densities import keep_count as keep_count
from supermask.masks.densities import scheduled_density as scheduled_density
from supermask.masks.distribution import DISTRIBUTIONS as DISTRIBUTIONS
from supermask.masks.distribution import allocate as allocate
from supermask.masks.distribution import check_distribution as check_distribution
from supermask.masks.distribution import group_of as group_of
from supermask.masks.metrics import LayerCollapseWarning as LayerCollapseWarning
from supermask.masks.metrics import density as density
from supermask.masks.metrics import distance as distance
from supermask.masks.metrics import warn_of_collapse as warn_of_collapse
from supermask.masks.random import permutation as permutation
from supermask.masks.random import random_mask as random_mask
from supermask.masks.selection import Mask as Mask
from supermask.masks.selection import NonFiniteScoreError as NonFiniteScoreError
from supermask.masks.selection import at_least_one as at_least_one
from supermask.masks.selection import check_counts as check_counts
from supermask.masks.selection import check_cuts as check_cuts
from supermask.masks.selection import check_finite as check_finite
from supermask.masks.selection import check_mask as check_mask
from supermask.masks.selection import check_masks as check_masks
from supermask.masks.selection import select as select
from supermask.masks.selection import select_n_of_m as select_n_of_m
