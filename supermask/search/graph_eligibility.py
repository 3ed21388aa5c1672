"""Whether a CUDA graph can hold the steps of a search."""

from supermask import ops
from supermask.search.base import Search


def graph_obstacle(search: Search) -> str | None:
    """Why a CUDA graph cannot hold a step; None where all steps launch the same work and look at none."""
    if not search.graphable:
        return f"{search.method} draws or decides something on the host in its steps"
    if search.density_schedule != "constant":
        return f"density_schedule={search.density_schedule!r} changes what a step keeps"
    device = next(iter(search.scores.values())).device
    kernel = "select_n_of_m_into" if search.group else "select_into"
    if search.distribution == "global":
        kernel = "rank_into"
    if not ops.is_native(kernel, device):
        return f"there are no compiled kernels for {device.type}, and the references wait for the device"
    return None
