"""Options that several commands share."""

from typing import Annotated, Literal

import typer

LabelsName = Literal["auto", "none"]

Exclude = Annotated[list[str] | None, typer.Option(help="A csv column to leave out; repeat for more.")]
LabelColumn = Annotated[str | None, typer.Option(help="The csv column with the labels of the samples.")]
