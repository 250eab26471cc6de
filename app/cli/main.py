"""The command line: `vae serve | train | prior | calibrate | gallery | evaluate | score`."""

import sys

import typer

from app.cli.calibrate import calibrate_command
from app.cli.evaluate import evaluate_command
from app.cli.gallery import gallery_command
from app.cli.prior import prior_command
from app.cli.progress import plain_console
from app.cli.score import score_command
from app.cli.serve import serve
from app.cli.train import train

cli = typer.Typer(
    name="vae",
    help="Train, evaluate and serve a variational autoencoder, and score data with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command()(serve)
cli.command()(train)
cli.command("prior")(prior_command)
cli.command("calibrate")(calibrate_command)
cli.command("gallery")(gallery_command)
cli.command("evaluate")(evaluate_command)
cli.command("score")(score_command)


def main() -> None:
    """Run the command. Errors of the model and of the system become one line on standard error and exit code 1."""
    from model.errors import VAEError

    try:
        sys.exit(cli())
    except VAEError as error:
        message = str(error)
    except OSError as error:
        # If standard output is on a full disk, Python must not try to flush it again at exit.
        sys.stdout = None
        message = f"{error.filename or 'standard output'}: {error.strerror}; fix this and run the command again"
    plain_console(stderr=True).print(f"vae: {message}", style="red")
    sys.exit(1)
