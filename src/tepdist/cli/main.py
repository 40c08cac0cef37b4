"""The `tepdist` command: finds the subcommand, prints errors, sets the exit code.

A subcommand's module is imported when it is asked for, so that `tepdist --help` and
`tepdist --version` start without JAX.
"""

import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from tepdist import __version__
from tepdist.errors import (
    ClusterError,
    OptionsError,
    PlanError,
    ProgramError,
    RolesError,
    ShardingError,
    TepdistError,
)

FAILED = 1
USAGE = 2
INTERRUPTED = 130
# A GPU plugin for deviceless compilation alone lacks the libraries that run things.
PLUGIN_LOGGER = "jax._src.xla_bridge"
USAGE_ERRORS = (
    ClusterError,
    OptionsError,
    PlanError,
    ProgramError,
    RolesError,
    ShardingError,
)

# Subcommand to the module that holds it under its own name, and its line of help.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "plan": ("plan", "Search a parallel plan for a program."),
        "explain": ("explain", "Say why a plan places a value as it does."),
        "diff": ("explain", "Show what two plans decide differently."),
        "run": ("run", "Plan a program and run it on the devices at hand."),
        "calibrate": (
            "calibrate",
            "Measure the devices at hand, write a cluster file.",
        ),
        "verify": ("verify", "Compile a plan and hold its predictions against that."),
        "export": ("export", "Write a program as portable StableHLO with its roles."),
        "serve": ("serve", "Serve plans and training steps to clients."),
        "status": ("serve", "Show a server's sessions, programs and memory."),
        "zoo": ("zoo", "List the built-in programs and their keys."),
        "doctor": ("doctor", "Say what is installed and what will not work, and why."),
    }
)


class LazyGroup(click.Group):
    """A group whose subcommands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"tepdist.cli.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the subcommand; errors that say no place or no way out name it."""
        try:
            return super().invoke(ctx)
        except TepdistError as error:
            command = f"{ctx.command_path} {ctx.invoked_subcommand}"
            error.where = error.where or command
            if isinstance(error, USAGE_ERRORS):
                error.hint = error.hint or _help_hint(command)
            raise

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tepdist")
@click.option("--debug", is_flag=True, help="Show tracebacks; stands anywhere.")
def app(*, debug: bool) -> None:
    """Automatic distributed training: a program in, a parallel plan out.

    PROGRAM is a file (StableHLO text, bytecode or portable artifact, HLO text or
    proto) or a built-in one, e.g. zoo:gpt:117m. A cluster is e.g. cpu:8, 8xh100,
    128x8xa100-80g (nodes x devices) or a TOML file.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs the command and gives its exit code: 0, 1 (failed) or 2 (usage)."""
    # No chatter of libraries before our errors. Jax sets the first too, but too late
    # where jaxlib is loaded before it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    debug = "--debug" in arguments
    if not debug:
        logging.getLogger(PLUGIN_LOGGER).addFilter(_without_traceback)
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app.main(args=rest, prog_name="tepdist", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        _print_usage_error(error)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except TepdistError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        return USAGE if isinstance(error, USAGE_ERRORS) else FAILED
    except Exception as error:
        # The edge: what no error of ours covers still ends in a line and a code.
        if debug:
            raise
        first_line = str(error).partition("\n")[0]
        click.echo(
            "error: tepdist met a fault of its own: "
            f"{type(error).__name__}: {first_line}\n"
            "  hint: run again with --debug and report the traceback",
            err=True,
        )
        return FAILED


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leaves one line of what JAX logs, if a plugin of its does not start."""
    if record.exc_info is not None:
        record.msg = f"{record.getMessage()}: {record.exc_info[1]}"
        record.args, record.exc_info = (), None
    return True


def main() -> None:
    """Entry point of the console script."""
    code = run(sys.argv[1:])
    # Python would look for garbage among all that a plan was made of: 0.2 s at 55,000
    # ops.
    gc.freeze()
    sys.exit(code)


def _help_hint(command: str) -> str:
    return f"{command} --help lists what it takes"


def _print_usage_error(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    lines = [f"error: {error.format_message()}"]
    if context is not None:
        lines.append(f"  at: {context.command_path}")
        lines.append(f"  hint: {_help_hint(context.command_path)}")
    click.echo("\n".join(lines), err=True)
