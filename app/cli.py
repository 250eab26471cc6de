"""The command line: `vae serve | train | calibrate | evaluate | score`."""

import sys

import typer

from app.commands.calibrate import calibrate_command
from app.commands.evaluate import evaluate_command
from app.commands.score import score_command
from app.commands.serve import serve
from app.commands.train import train
from app.progress import plain_console

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
cli.command("evaluate")(evaluate_command)
cli.command("score")(score_command)


def main() -> None:
    """Run the command; what it raises on purpose becomes one line on standard error and exit code 1."""
    from model.errors import VAEError

    try:
        cli()
    except VAEError as error:
        plain_console(stderr=True).print(f"vae: {error}", style="red")
        sys.exit(1)
