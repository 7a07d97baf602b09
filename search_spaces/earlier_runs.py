"""How long earlier runs took, as plain data: they price a plan until trials here are finished.

Source: column runtime_min of all_experiments.csv, the registry of phases 3 to 7 that was kept by
hand: minutes of one GPU for each run, over three tasks (two in phase 5) and seeds 42, 123 and 456.
It claims 15,000 epochs for phase 3, where the run files end at 10,000. The times are those of the
published code, with the integrators that are our defaults.
"""

# The settings that most runs had; each entry below overrides what it had instead.
_FULL_FLOW = {
    "size": 48,
    "variant": "fullflow",
    "methodology": "joint_from_scratch",
    "world_model[flow].integrator": "heun",
    "world_model[flow].num_substeps": 4,
    "policy[flow].integrator": "heun",
    "policy[flow].num_substeps": 2,
}
_BASELINE = {
    "size": 48,
    "variant": "baseline",
    "methodology": "joint_from_scratch",
}
_FLOW_POLICY = {
    "size": 48,
    "variant": "flowpolicy",
    "methodology": "policy_and_wm_finetuning",
    "policy[flow].integrator": "heun",
    "policy[flow].num_substeps": 2,
}

EARLIER_RUNS = [
    {
        "phase": "phase3, baseline",
        "settings": {**_BASELINE, "methodology": "policy_finetuning"},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (15, 15, 15, 15, 15, 15, 15, 15, 15),
    },
    {
        "phase": "phase3, flow_policy",
        "settings": {**_FLOW_POLICY, "methodology": "policy_finetuning"},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (15, 15, 15, 15, 15, 15, 15, 15, 15),
    },
    {
        "phase": "phase4, fullflow",
        "settings": _FULL_FLOW,
        "epochs": 10_000,
        "gpu": "H100",
        "minutes": (79, 78, 79, 86, 79, 79, 78, 78, 79),
    },
    {
        "phase": "phase5, high_precision_wm",
        "settings": {**_FULL_FLOW, "world_model[flow].num_substeps": 8},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (179, 179, 176, 175, 174, 175),
    },
    {
        "phase": "phase5, high_precision_policy",
        "settings": {**_FULL_FLOW, "policy[flow].num_substeps": 4},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (127, 126, 127, 127, 126, 137),
    },
    {
        "phase": "phase5, euler_fast",
        "settings": {
            **_FULL_FLOW,
            "world_model[flow].integrator": "euler",
            "policy[flow].integrator": "euler",
        },
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (79, 80, 79, 80, 79, 79),
    },
    {
        "phase": "phase6, baseline",
        "settings": _BASELINE,
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (49, 51, 50, 49, 50, 50, 48, 48, 48),
    },
    {
        "phase": "phase6, fullflow",
        "settings": _FULL_FLOW,
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (202, 189, 189, 188, 185, 190, 185, 184, 187),
    },
    {
        "phase": "phase6, baseline",
        "settings": _BASELINE,
        "epochs": 50_000,
        "gpu": "H100",
        "minutes": (156, 152, 154, 158, 157, 157, 154, 153, 155),
    },
    {
        "phase": "phase6, baseline",
        "settings": _BASELINE,
        "epochs": 100_000,
        "gpu": "H200",
        "minutes": (311, 306, 313, 314, 315, 315, 306, 304, 310),
    },
    {
        "phase": "phase7, baseline",
        "settings": {**_BASELINE, "methodology": "policy_and_wm_finetuning"},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (44, 44, 45, 46, 43, 44, 43, 42, 43),
    },
    {
        "phase": "phase7, flow_std",
        "settings": _FLOW_POLICY,
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (51, 51, 53, 52, 51, 52, 51, 51, 51),
    },
    {
        "phase": "phase7, flow_high",
        "settings": {**_FLOW_POLICY, "policy[flow].num_substeps": 4},
        "epochs": 15_000,
        "gpu": "H100",
        "minutes": (62, 63, 63, 63, 62, 63, 62, 63, 62),
    },
]
