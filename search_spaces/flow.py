"""Named tunings of the full flow: substeps and integrators of its two flows."""

FLOW_TUNINGS = {
    "high_precision_wm": {"world_model.num_substeps": 8, "policy.num_substeps": 2},
    "high_precision_policy": {"world_model.num_substeps": 4, "policy.num_substeps": 4},
    "euler_fast": {
        "world_model.integrator": "euler",
        "policy.integrator": "euler",
        "world_model.num_substeps": 4,
        "policy.num_substeps": 2,
    },
}
