"""What every long job needs: a run directory, checkpoints, seeds, a device, progress, a way to stop."""
