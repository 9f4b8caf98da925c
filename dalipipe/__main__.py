"""``python -m dalipipe``."""

from dalipipe.cli import app

app(prog_name="dalipipe")
