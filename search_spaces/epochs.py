"""Epoch budgets of the paper scale; scales.py says what a laptop runs in their place."""

EPOCHS = (15_000, 50_000, 100_000, 150_000)
