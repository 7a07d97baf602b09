"""The driver of a sweep: data made, Ray started, trials in turn, and what to do when they fail."""
