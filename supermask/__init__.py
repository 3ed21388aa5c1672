"""Subnetworks that work without training: strong lottery tickets, and IMP tickets to compare them with."""

from supermask.init import INITS as INITS
from supermask.init import randomize_ as randomize_
from supermask.search import SEARCHES as SEARCHES
from supermask.search import EdgePopup as EdgePopup
from supermask.search import Search as Search
from supermask.ticket import Ticket as Ticket
from supermask.ticket import TicketError as TicketError

__version__ = "0.1.0"
