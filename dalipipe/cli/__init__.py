"""The command line. torch and DALI are imported by the commands that need them: ``--help`` is to be quick."""

# In the order in which --help lists the commands.
from dalipipe.cli import training  # noqa: F401, I001
from dalipipe.cli import tuning  # noqa: F401
from dalipipe.cli import explaining  # noqa: F401
from dalipipe.cli import generating, looking, measuring, packing  # noqa: F401
from dalipipe.cli.app import app

__all__ = ["app"]
