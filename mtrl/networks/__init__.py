"""Networks of the actor and the critics: kinds.py lists them, build.py builds them, each kind has a file."""
