"""Instruments: what a trained network looks like inside and around its images."""
