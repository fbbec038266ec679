"""Networks of actors and critics, one file each."""
