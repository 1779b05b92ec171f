"""Optimizers that estimate a gradient and descend."""
