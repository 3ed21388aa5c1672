"""Methods as a report shows them: what they are called, which group they belong to, how they look."""
