"""What the rest of the library computes with: operators, called as functions.

`functional` checks arguments and calls them, `library` declares them and loads the compiled kernels,
`references` are the same in torch, `generator` draws random values, `layouts` packs masks for the kernels.
"""

from supermask.ops.clearing import clear_where as clear_where
from supermask.ops.functional import MAX_GROUP as MAX_GROUP
from supermask.ops.functional import RANKINGS as RANKINGS
from supermask.ops.functional import SCHEMES as SCHEMES
from supermask.ops.functional import as_int8 as as_int8
from supermask.ops.functional import backends as backends
from supermask.ops.functional import check_ranking as check_ranking
from supermask.ops.functional import edge_popup_sgd as edge_popup_sgd
from supermask.ops.functional import fill_random as fill_random
from supermask.ops.functional import instruction_set as instruction_set
from supermask.ops.functional import is_native as is_native
from supermask.ops.functional import new_cuts as new_cuts
from supermask.ops.functional import not_finite as not_finite
from supermask.ops.functional import packed_linear as packed_linear
from supermask.ops.functional import philox as philox
from supermask.ops.functional import reference as reference
from supermask.ops.functional import select as select
from supermask.ops.functional import select_global as select_global
from supermask.ops.functional import select_n_of_m as select_n_of_m
from supermask.ops.functional import signed_supermask_sgd as signed_supermask_sgd
from supermask.ops.functional import straight_through as straight_through
from supermask.ops.functional import write_masked as write_masked
from supermask.ops.lists import conv_weight_gradient as conv_weight_gradient
from supermask.ops.lists import lists_of_weights as lists_of_weights
from supermask.ops.lists import sparse_conv as sparse_conv
from supermask.ops.lists import sparse_conv_input_gradient as sparse_conv_input_gradient
from supermask.ops.lists import sparse_linear as sparse_linear
from supermask.ops.lists import weight_gradient as weight_gradient
from supermask.ops.mask_bits import decode_mask as decode_mask
from supermask.ops.mask_bits import encode_mask as encode_mask
from supermask.ops.mask_bits import pack_mask as pack_mask
from supermask.ops.mask_bits import unpack_mask as unpack_mask
from supermask.ops.units import in_units as in_units
from supermask.ops.units import units_of_layers as units_of_layers
