"""Losses that pull a student towards its teacher."""
