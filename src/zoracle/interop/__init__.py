"""zoracle's optimizers inside other libraries: torch.optim, scipy.optimize, Foolbox, ART. Import the one you use."""
