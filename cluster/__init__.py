"""A sweep on a Slurm cluster: starts processes and parses text, nothing more."""
