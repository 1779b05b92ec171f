"""Optimizers that are networks, and the parts they share."""
