"""`tepdist zoo`."""

import click
from rich.console import Console
from rich.text import Text

from tepdist.report.terminal import new_table
from tepdist.zoo.entries import EntryRow, catalogue


@click.command()
def zoo() -> None:
    """List the built-in programs, their sizes and keys.

    Use one as zoo:NAME[:SIZE][:key=value,..], e.g. zoo:gpt:117m:batch=64.
    """
    console = Console()
    for row in catalogue():
        console.print(Text(f"zoo:{row.name}", style="bold"), Text(row.text))
        _print_keys(console, row)
        if row.sizes:
            _print_sizes(console, row)


def _print_keys(console: Console, row: EntryRow) -> None:
    table = new_table("  key", "default", "meaning")
    for key in row.keys:
        choices = f" ({', '.join(key.choices)})" if key.choices else ""
        table.add_row(
            Text(f"  {key.name}"), Text(_written(key.default)), Text(key.text + choices)
        )
    console.print(table)


def _print_sizes(console: Console, row: EntryRow) -> None:
    """Sizes in columns; keys that all sizes set alike are left out."""
    defaults = {key.name: key.default for key in row.keys}
    names = [
        name
        for name, default in defaults.items()
        if any(keys[name] != default for keys in row.sizes.values())
    ]
    table = new_table("  size", *names, numbers=tuple(names))
    for size, keys in row.sizes.items():
        table.add_row(f"  {size}", *(_written(keys[name]) for name in names))
    console.print(table)


def _written(value: object) -> str:
    """A key's value as one writes it on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
