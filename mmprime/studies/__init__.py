"""Studies: the same training and evaluation for many cells that differ in one thing each."""
