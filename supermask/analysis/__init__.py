"""Looking at what was found: the structure of masks, and the loss along lines between networks."""
