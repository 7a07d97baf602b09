"""Offline data: collected once, stored as Arrow files, sampled as windows.

Nothing here imports an environment; what rolls them is passed in. So this package also works on a
machine that has torch, numpy and pyarrow alone.
"""
