"""`supermask compare`: dense, strong tickets, IMP tickets and controls, side by side."""
