"""The learned search of balls: patterns to begin with, the spectrum of the gradient, and the search itself."""
