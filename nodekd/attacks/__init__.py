"""Adversarial attacks with images in [0, 1], and the worst case over them."""
