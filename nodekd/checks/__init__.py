"""Checks that tell a robust network from one whose gradients are masked."""
