"""The only place that knows submitit and the commands of Slurm."""
