"""Tables, figures and pages, of runs and of experiments."""
