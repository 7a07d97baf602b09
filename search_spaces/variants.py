"""The 2x2: which world model with which policy; pwmray.config says what each name means."""

BASELINE = "baseline"  # MLP world model, Gaussian policy
FLOW_POLICY = "flowpolicy"  # MLP world model, flow policy
FLOW_WM = "flowwm"  # flow world model, Gaussian policy
FULL_FLOW = "fullflow"  # flow world model, flow policy
