"""Pretraining world models, and the trials that start from them."""
