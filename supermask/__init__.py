"""Subnetworks that work without training: strong lottery tickets, and IMP tickets to compare with."""

from typing import TYPE_CHECKING

from supermask import _moved
from supermask._lazy import lazy

if TYPE_CHECKING:
    from supermask import distributed as distributed
    from supermask.experiments.compare.methods import list_methods as list_methods
    from supermask.models import create_model as create_model
    from supermask.models import list_models as list_models
    from supermask.packed import pack as pack
    from supermask.prune.hold import hold as hold
    from supermask.prune.imp import imp as imp
    from supermask.search import SEARCHES as SEARCHES
    from supermask.search import EdgePopup as EdgePopup
    from supermask.search import Search as Search
    from supermask.search import create_search as create_search
    from supermask.search import list_searches as list_searches
    from supermask.search import register_search as register_search
    from supermask.tickets.load import load as load
    from supermask.tickets.ticket import Ticket as Ticket
    from supermask.tickets.ticket import TicketError as TicketError
    from supermask.training.acceleration import accelerated as accelerated
    from supermask.training.ensemble import Ensemble as Ensemble
    from supermask.training.ensemble import EnsembleSearch as EnsembleSearch
    from supermask.training.ensemble import SearchesTogether as SearchesTogether
    from supermask.training.ensemble import Together as Together
    from supermask.training.loop import evaluate as evaluate
    from supermask.training.loop import fit as fit
    from supermask.weights.init import INITS as INITS
    from supermask.weights.init import randomize_ as randomize_
    from supermask.weights.kinds import Fans as Fans
    from supermask.weights.kinds import register_layer as register_layer
    from supermask.zoo import list_tickets as list_tickets

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(("create_model", "list_models"), "models"),
    "pack": "packed",
    "hold": "prune.hold",
    "imp": "prune.imp",
    **dict.fromkeys(("SEARCHES", "EdgePopup", "Search"), "search"),
    **dict.fromkeys(("create_search", "list_searches", "register_search"), "search"),
    "list_methods": "experiments.compare.methods",
    "load": "tickets.load",
    **dict.fromkeys(("Ticket", "TicketError"), "tickets.ticket"),
    "accelerated": "training.acceleration",
    **dict.fromkeys(("Ensemble", "EnsembleSearch", "SearchesTogether", "Together"), "training.ensemble"),
    **dict.fromkeys(("evaluate", "fit"), "training.loop"),
    **dict.fromkeys(("INITS", "randomize_"), "weights.init"),
    **dict.fromkeys(("Fans", "register_layer"), "weights.kinds"),
    "list_tickets": "zoo",
}
"""Name → its module below this package; the imports above say the same to type checkers."""

__all__ = ["__version__", "distributed", *_PUBLIC]

__getattr__, __dir__ = lazy(__name__, _PUBLIC)

_moved.install()
