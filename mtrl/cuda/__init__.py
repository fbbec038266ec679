"""The part of the library for NVIDIA GPUs. A run on a CPU imports none of it."""
