"""Optimizers that rank candidates: evolution strategies and searches within a ball."""
