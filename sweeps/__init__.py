"""Grids of runs: expanding, planning, launching and watching them."""
