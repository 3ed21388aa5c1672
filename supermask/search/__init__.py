"""Search algorithms, one file each: optimizers over a shared base that move scores instead of weights."""

from supermask.search.base import BASES as BASES
from supermask.search.base import SEARCHES as SEARCHES
from supermask.search.base import Search as Search
from supermask.search.base import register_search as register_search
from supermask.search.edge_popup import EdgePopup as EdgePopup
