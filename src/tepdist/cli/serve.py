"""`tepdist serve` and `tepdist status`."""

from pathlib import Path

import click
from rich.console import Console

from tepdist.report.terminal import new_table
from tepdist.report.units import bytes_text, counted, seconds_text
from tepdist.runtime.devices import resolve_cluster
from tepdist.service.channel import Connection
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.server import (
    DEFAULT_LISTEN,
    DEFAULT_SESSION_TTL_S,
    ServerTls,
)
from tepdist.service.server import serve as serve_forever


@click.command()
@click.option(
    "--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT"
)
@click.option("--cluster", help="What to plan for; default: the devices at hand.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keeps the plans.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM file.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="Who may come in: client:token a line.",
)
@click.option("--insecure", is_flag=True, help="Serve others without TLS or tokens.")
@click.option(
    "--session-ttl",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_SESSION_TTL_S,
    show_default=True,
    help="Seconds after which a silent session's memory is freed.",
)
def serve(
    *,
    listen: str,
    cluster: str | None,
    data_dir: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    insecure: bool,
    session_ttl: float,
) -> None:
    """Serve plans and training steps to clients until interrupted."""
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = ServerTls(tls_cert, tls_key)
    elif tls_cert is not None or tls_key is not None:
        raise click.UsageError("--tls-cert and --tls-key go together")
    target = resolve_cluster(cluster)

    def announce(address: str) -> None:
        click.echo(f"serving {target.name} on {address}")

    serve_forever(
        listen,
        cluster=target,
        data_dir=data_dir,
        tls=tls,
        token_file=token_file,
        insecure=insecure,
        session_ttl_s=session_ttl,
        announce=announce,
    )
    click.echo("stopped")


@click.command()
@click.argument("address", default=DEFAULT_LISTEN)
@click.option("--token", help="If the server asks for one.")
@click.option("--tls", is_flag=True, help="Speak TLS; trust the system's authorities.")
@click.option(
    "--tls-ca", type=click.Path(path_type=Path), help="Speak TLS; trust this PEM file."
)
def status(*, address: str, token: str | None, tls: bool, tls_ca: Path | None) -> None:
    """Show the sessions, programs and memory of the server at ADDRESS."""
    connection = Connection(address, token=token, tls=tls_ca or tls)
    try:
        info = connection.server_info()
        found = connection.ask("GetStatus", pb.GetStatusRequest())
    finally:
        connection.close()
    console = Console()
    console.print(
        f"{address}: tepdist {info.server_version}, {info.cluster}, "
        f"up {seconds_text(found.uptime_s)}, "
        f"{counted(len(found.sessions), 'session')}",
        markup=False,
        highlight=False,
    )
    if found.sessions:
        console.print(_session_table(found))


def _session_table(found: pb.GetStatusResponse) -> object:
    numbers = ("age", "lease", "tensors", "devices", "host", "steps")
    table = new_table("session", *numbers, "programs", numbers=numbers)
    for session in found.sessions:
        name = f"{session.number} {session.client}".rstrip()
        table.add_row(
            name,
            seconds_text(session.age_s),
            seconds_text(session.lease_left_s),
            str(session.num_tensors),
            bytes_text(session.device_bytes),
            bytes_text(session.host_bytes),
            str(sum(program.num_steps for program in session.programs)),
            ", ".join(program.name for program in session.programs) or "-",
        )
    return table
