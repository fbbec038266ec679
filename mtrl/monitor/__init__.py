"""What is measured and recorded of a run while it trains. Nothing here changes the run."""
