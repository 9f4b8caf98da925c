"""The program itself, and how its commands speak and fail."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import dalipipe
from dalipipe.cli.wording import in_flags

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    name="dalipipe",
    help="Decode and augment whole batches for PyTorch, and fine-tune on them.",
    epilog="Start with [bold]dalipipe demo[/]; if something is missing, [bold]dalipipe doctor[/] says what.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
settings = {"traceback": False}


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dalipipe {dalipipe.__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show Python's traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    settings["traceback"] = traceback
    # The loader shares the cores with torch's OpenMP threads. Left alone, those spin while they wait: a bit faster on
    # an idle machine of two cores, several times slower on a busy one. Torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Failure(Exception):
    """The command ran, and its outcome is not what it has to be."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """One line for what a user can put right, exit code 2; 1 for a run that failed; 128 + signal for one stopped."""
    try:
        yield
    except Exception as error:
        wrong_input = isinstance(error, (OSError, ValueError, ImportError))
        if settings["traceback"] or not (wrong_input or _is_failed_run(error)):
            raise
        _complain(in_flags(str(error)))
        raise typer.Exit(2 if wrong_input else 1) from error
    except KeyboardInterrupt as stopped:
        from dalipipe.finetune import Interrupted

        if not isinstance(stopped, Interrupted):
            raise
        console = new_console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
        console.print(f"stopped after step {stopped.step}; the checkpoint is complete. Continue with:", highlight=False)
        console.print(f"  {_resume_command()}", style="bold", highlight=False, soft_wrap=True)
        raise typer.Exit(128 + stopped.signum) from stopped


def _is_failed_run(error: Exception) -> bool:
    from dalipipe.finetune import PeerLostError
    from dalipipe.records import SampleError

    return isinstance(error, (SampleError, FloatingPointError, PeerLostError, Failure))


def _complain(message: str) -> None:
    who = f" (rank {os.environ.get('RANK')})" if several() else ""
    new_console(stderr=True).print(f"[bold red]error{who}:[/] {escaped(message)}", highlight=False, soft_wrap=True)


def new_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet)


def several() -> bool:
    """Whether this is one of several processes that train together, as torchrun tells them."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _resume_command() -> str:
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--overwrite", "--resume")]
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    program = ["torchrun", "--nproc-per-node", processes, "-m", "dalipipe"] if several() else ["dalipipe"]
    return shlex.join([*program, *arguments, "--resume"])
