"""What a study does, in which order."""
