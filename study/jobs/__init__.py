"""What a worker does for one job: train, measure, attack, and commit one outcome."""
