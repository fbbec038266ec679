"""One small network of every kind."""

from mtrl.overrides import build_config

# Small shapes of every kind, each with what could be confused of another size.
CRITICS, TASKS = 3, "reach-v3+push-v3+door-open-v3+drawer-close-v3"
SMALL = [
    {"kind": "mtmhsac", "width": 17, "depth": 3},
    {"kind": "mtmhsac", "width": 33, "depth": 1},
    {"kind": "mtmhsac", "width": 9, "depth": 2, "block": "layer_norm"},
    {"kind": "mtmhsac", "width": 9, "depth": 2, "block": "brc", "task_embedding": 5},
    {"kind": "mtmhsac", "width": 7, "depth": 2, "block": "simba"},
    {"kind": "mtmhsac", "width": 9, "depth": 2, "task_embedding": 3},
    {"kind": "mtsac", "width": 9, "depth": 2},
    {"kind": "sac", "width": 9, "depth": 2, "block": "brc"},
    {"kind": "soft_modularization", "width": 7, "depth": 1, "experts": 2, "encoder_width": 5},
    {"kind": "soft_modularization", "width": 7, "depth": 3, "experts": 3, "encoder_width": 5},
    {"kind": "paco", "width": 9, "depth": 2, "experts": 3},
    {"kind": "moore", "width": 9, "depth": 3, "experts": 4},
    {"kind": "moore", "width": 9, "depth": 1, "experts": 2},
    {"kind": "care", "width": 9, "depth": 2, "experts": 3, "encoder_width": 5},
    {"kind": "film", "width": 9, "depth": 2, "encoder_width": 5},
]


def name_of(shape):
    return "-".join(str(value) for value in shape.values())


def small_config(shape, **overrides):
    keys = {f"network.{part}.{key}": value for part in ("actor", "critic") for key, value in shape.items()}
    return build_config("paper", {"env.tasks": TASKS, "agent.critics": CRITICS} | keys | overrides)
