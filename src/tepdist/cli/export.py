"""`tepdist export`."""

from pathlib import Path

import click

from tepdist.cli.programs import load_program
from tepdist.cli.progress import shown_progress
from tepdist.errors import ProgramError
from tepdist.program.export import export_program
from tepdist.program.sidecar import sidecar_path
from tepdist.report.units import bytes_text


@click.command()
@click.argument("program")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE"
)
def export(*, program: str, output: Path) -> None:
    """Write PROGRAM as a portable artifact, its roles beside it."""
    with shown_progress("exporting", quiet=False) as report:
        report("reading the program", 0.0)
        loaded = load_program(program)
        try:
            export_program(loaded.program, loaded.roles, output)
        except OSError as error:
            raise ProgramError(
                f"the program cannot be written: {error.strerror}",
                where=str(output),
                hint="name a file in a folder that exists and may be written to",
            ) from None
    size = bytes_text(output.stat().st_size)
    click.echo(f"written {output} ({size}) and {sidecar_path(output).name}")
