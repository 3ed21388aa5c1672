"""One training over several processes: who they are, what each does, and whether they still agree."""

from supermask.distributed.consistency import RanksDifferError as RanksDifferError
from supermask.distributed.consistency import assert_same as assert_same
from supermask.distributed.consistency import assert_same_masks as assert_same_masks
from supermask.distributed.data_parallel import BatchShard as BatchShard
from supermask.distributed.data_parallel import SyncedTimer as SyncedTimer
from supermask.distributed.data_parallel import generators as generators
from supermask.distributed.process_group import RankLostError as RankLostError
from supermask.distributed.process_group import Ranks as Ranks
from supermask.distributed.process_group import joined as joined
from supermask.distributed.process_group import launched as launched
from supermask.distributed.process_group import own_device as own_device
from supermask.distributed.process_group import rank as rank

Share, Pace = BatchShard, SyncedTimer
"""Their names in version 0.1."""
