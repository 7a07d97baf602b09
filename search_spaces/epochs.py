"""Epoch budgets of the paper scale; scales.py has those of a laptop."""

EPOCHS = (15_000, 50_000, 100_000, 150_000)
