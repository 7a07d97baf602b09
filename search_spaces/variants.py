"""The variants of the 2x2, each a world model and a policy (see pwmray.variants)."""

BASELINE = "baseline"  # MLP world model, Gaussian policy
FLOW_POLICY = "flowpolicy"  # MLP world model, flow policy
FLOW_WM = "flowwm"  # flow world model, Gaussian policy
FULL_FLOW = "fullflow"  # flow world model, flow policy
FACTORIAL = (BASELINE, FLOW_POLICY, FLOW_WM, FULL_FLOW)

# The configurations by the names that they have had since the first runs.
NAMED = {
    "pwm_48M_mt_baseline": {"size": 48, "variant": BASELINE},
    "pwm_48M_mt_flowpolicy": {"size": 48, "variant": FLOW_POLICY},
    "pwm_48M_mt_flowwm": {"size": 48, "variant": FLOW_WM},
    "pwm_48M_mt_fullflow": {"size": 48, "variant": FULL_FLOW},
}
