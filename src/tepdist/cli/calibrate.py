"""`tepdist calibrate`: measures the devices at hand and writes a cluster file."""

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

import click
import jax
from rich.console import Console
from rich.table import Table

from tepdist.cli.progress import shown_progress
from tepdist.cluster.files import to_toml
from tepdist.cluster.model import Cluster, MeasuredCollective
from tepdist.cost.elementwise import curve_s
from tepdist.cost.fitting import median_error, timed_product_s
from tepdist.errors import ClusterError
from tepdist.report.terminal import new_table
from tepdist.report.units import bytes_text, count_text, percent_text, seconds_text
from tepdist.runtime.calibration import Calibration, Measured, calibrated_cluster
from tepdist.runtime.devices import ask_for_cpu_devices
from tepdist.runtime.timing import DTYPES

VIRTUAL_DEVICES = 8
SHOWN_BYTES = (2**16, 2**22)


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("cluster.toml"),
    show_default=True,
    help="Cluster file to write.",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    help=f"How many; default: all at hand, {VIRTUAL_DEVICES} virtual ones of a CPU.",
)
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(list(DTYPES.values())),
    multiple=True,
    default=("f32", "bf16"),
    show_default=True,
    help="Of matrix products; repeat it for several.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds it may take, roughly; more time reaches larger sizes.",
)
def calibrate(
    *, output: Path, devices: int | None, dtypes: Sequence[str], time_limit: float
) -> None:
    """Measure the devices at hand and write a cluster file.

    Use it as any cluster: tepdist plan PROGRAM --cluster cluster.toml. Times kernels,
    matrix products and collectives on all devices at once. Nothing else should run
    meanwhile: whatever does is taken for a slower machine.
    """
    _check_output(output)
    used = _devices(devices)
    names = [name for name, dtype in DTYPES.items() if dtype in {"f32", *dtypes}]
    if "f64" in dtypes:
        jax.config.update("jax_enable_x64", True)
    with shown_progress("calibrating", quiet=False) as report:
        calibration = Calibration(used, time_limit_s=time_limit, report=report)
        measured = calibration.run(names)
        cluster = calibrated_cluster(
            used, measured, name=output.stem, source=_source(used)
        )
    output.write_text(to_toml(cluster), encoding="utf-8")
    console = Console()
    console.print(_device_table(cluster, measured))
    if cluster.levels[0].measured:
        console.print(_collective_table(cluster))
    click.echo(f"\nwrote {output}: {len(used)} x {cluster.device.kind}")


def _check_output(output: Path) -> None:
    """Refuses before a minute's work what could not be written after it."""
    if not output.parent.is_dir():
        raise ClusterError(
            f"there is no folder {str(output.parent)!r}",
            where=f"--output {output}",
            hint="make it, or write elsewhere",
        )


def _devices(count: int | None) -> Sequence[jax.Device]:
    ask_for_cpu_devices(VIRTUAL_DEVICES if count is None else count)
    found = jax.devices()
    if count is not None and count > len(found):
        raise ClusterError(
            f"there are {len(found)} devices, not {count}",
            where=f"--devices {count}",
            hint="leave it out to use all at hand",
        )
    return found[:count]


def _source(devices: Sequence[jax.Device]) -> str:
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    kind = devices[0].device_kind
    return (
        f"Measured by tepdist calibrate on {len(devices)} x {kind}, all at once, "
        f"{day}, jax {jax.__version__}, {platform.machine()}."
    )


def _device_table(cluster: Cluster, measured: Measured) -> Table:
    device = cluster.device
    table = new_table("each of all devices at once", "reaches", numbers=("reaches",))
    for dtype in sorted({product.dtype for product in measured.products}):
        rate = f"{count_text(device.flops_per_s[dtype])}flop/s"
        table.add_row(f"large products in {dtype}", rate)
    error = median_error(
        (timed_product_s(device, product), product.seconds)
        for product in measured.products
    )
    table.add_row("products are off the fit by (median)", percent_text(error))
    rate = f"{bytes_text(device.memory_bytes_per_s)}/s"
    table.add_row("memory, elementwise", rate)
    table.add_row("start of a kernel", seconds_text(device.launch_s))
    return table


def _collective_table(cluster: Cluster) -> Table:
    columns = [bytes_text(bytes_) for bytes_ in SHOWN_BYTES]
    table = new_table("collective", "among", *columns, numbers=("among", *columns))
    for each in cluster.levels[0].measured:
        times = [_collective_text(each, bytes_) for bytes_ in SHOWN_BYTES]
        table.add_row(each.kind, str(each.size), *times)
    return table


def _collective_text(each: MeasuredCollective, bytes_: int) -> str:
    return seconds_text(curve_s(each.times, float(bytes_)))
