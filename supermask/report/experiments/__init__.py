"""What the page of each experiment says, one module per experiment; all are imported by the report."""
