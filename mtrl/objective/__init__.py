"""The losses that an update minimises, and the options that change them."""
