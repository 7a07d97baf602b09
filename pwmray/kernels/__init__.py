"""Operations as kernels, compiled in seconds where a trial runs: C++ for a CPU, Triton for a GPU.

Where they cannot be, everything runs as its PyTorch is written.
"""
