"""The paper's experiments, one command each: what they run, on which problems, and what they report."""
