"""The search space: YAML in, one checked and frozen object out."""
