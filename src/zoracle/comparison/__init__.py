"""Several optimizers on the same problems: entries, tuning, and the run folder they share."""
