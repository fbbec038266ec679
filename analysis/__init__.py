"""From run files to statistics, scaling laws, figures and a report."""
