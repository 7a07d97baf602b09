"""Fused operations, compiled in seconds on the machine of a trial: C++ for a CPU, Triton for a GPU.

Where they cannot be compiled, models and learner run as plain PyTorch.
"""
