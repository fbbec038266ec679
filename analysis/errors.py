"""What can be wrong with what a user names. Apart, so that naming it costs no import of xarray."""


class SweepError(ValueError):
    """A folder, file or table that cannot be analysed; the message names it and the cure."""
