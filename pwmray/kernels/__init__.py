"""Operations in C++ for CPUs: compiled by the machine's own compiler, in seconds, when asked for.

Where they cannot be, everything runs as its PyTorch is written. A GPU never sees them.
"""
