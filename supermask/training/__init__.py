"""The training loop and what it needs: checkpoints, schedules, precision, CUDA graphs, ensembles."""
