"""Learned search within balls: initial patterns, the spectrum of the gradient, and the search itself."""
