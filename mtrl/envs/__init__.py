"""A vector env over Meta-World."""
