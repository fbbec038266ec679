"""Measures and records a run while it trains. Nothing here changes what the run computes."""
