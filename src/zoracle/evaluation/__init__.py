"""Evaluation: the definitions of the numbers, comparisons, tuning, run folders and reports."""
