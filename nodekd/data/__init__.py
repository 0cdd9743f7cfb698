"""Image data sets, cut once into train, val_search, val_front and test."""
