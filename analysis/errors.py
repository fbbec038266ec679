"""The error of analysis, in a file of its own: importing it does not import xarray."""


class SweepError(ValueError):
    """A folder, file or table that cannot be analysed; the message names it and the cure."""
