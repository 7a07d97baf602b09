"""The learner: policy learning with a world model (PWM, arXiv 2407.02466)."""
