"""What the numbers of the checks say about a network: rules, verdicts and the diagnostic subset. Loads no torch."""
