"""Calling a user's function: with the arrays that it was written for, one after another or in an executor."""
