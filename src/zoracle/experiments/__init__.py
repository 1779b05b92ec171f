"""The paper's experiments, each one command: what is run, on which problems, and what is written down of it."""
