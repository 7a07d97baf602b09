"""Compare world models and policies for model-based reinforcement learning fairly."""

__version__ = "0.1.0"
