"""The command line: `vae serve | train | calibrate | gallery | evaluate | score`."""

import sys
from typing import NoReturn

import typer

from app.cli.calibrate import calibrate_command
from app.cli.evaluate import evaluate_command
from app.cli.gallery import gallery_command
from app.cli.progress import plain_console
from app.cli.score import score_command
from app.cli.serve import serve
from app.cli.train import train

cli = typer.Typer(
    name="vae",
    help="Train a variational autoencoder, judge it, serve it, score data with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command()(serve)
cli.command()(train)
cli.command("calibrate")(calibrate_command)
cli.command("gallery")(gallery_command)
cli.command("evaluate")(evaluate_command)
cli.command("score")(score_command)


def main() -> None:
    """Run the command; what it raises on purpose, or what the machine refuses, becomes one line on standard error and
    exit code 1.
    """
    from model.errors import VAEError

    try:
        cli()
    except VAEError as error:
        _end(str(error))
    except OSError as error:
        # Most of all of standard output, on a full disk: what is still to be written there must not be tried again.
        sys.stdout = None
        _end(f"{error.filename or 'standard output'}: {error.strerror}; mend that and repeat the command")


def _end(said: str) -> NoReturn:
    plain_console(stderr=True).print(f"vae: {said}", style="red")
    sys.exit(1)
