"""The library on NVIDIA GPUs. A run on a CPU imports nothing of it."""
