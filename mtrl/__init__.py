"""Study how multi-task reinforcement learning scales."""

__version__ = "0.1.0"
