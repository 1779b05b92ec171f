"""Adapters for other libraries, one module each: torch.optim, SciPy, Nevergrad, Optuna, Foolbox, ART, Transformers."""
