"""Predicted beside measured: a zoo program's planned step on this machine's GPUs.

    python benchmarks/gpu/step.py [--program zoo:gpt:345m] [--steps 20]

Needs `pip install tepdist[cuda13]` and GPUs of a kind that a preset describes. The
measured time is the median of steps that are each waited for; the measured memory is
the compiler's own figure for one device, and the runtime's peak beside it.
"""

import time

import click
import jax
import numpy as np

import tepdist
from tepdist.zoo.entries import build


@click.command()
@click.option("--program", default="zoo:gpt:345m", show_default=True)
@click.option("--cluster", help="Default: the devices at hand.")
@click.option("--level", default="O2", show_default=True)
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True)
def main(*, program: str, cluster: str | None, level: str, steps: int) -> None:
    """Run a planned step and print what was predicted beside what it took."""
    model = build(program.removeprefix("zoo:"))
    batch = model.make_batch(0)
    plan = tepdist.plan(
        model.train_step, model.state, model.batch, cluster=cluster, level=level
    )
    stage = plan.stages[0]
    devices = np.array(jax.devices())[list(stage.devices)]
    mesh = jax.sharding.Mesh(devices.reshape(stage.mesh.shape), stage.mesh.names)
    in_shardings, out_shardings = plan.in_shardings(mesh), plan.out_shardings(mesh)
    step = (
        jax.jit(
            plan.constrain(model.train_step),
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            donate_argnums=0,
        )
        .lower(model.state, model.batch)
        .compile()
    )
    state = jax.jit(model.init, out_shardings=in_shardings[0])(jax.random.key(0))
    batch = jax.device_put(batch, in_shardings[1])
    seconds = []
    for _ in range(steps):
        begin_s = time.perf_counter()
        state, loss = step(state, batch)
        jax.block_until_ready((state, loss))
        seconds.append(time.perf_counter() - begin_s)
    compiled = step.memory_analysis()
    compiled_bytes = (
        compiled.argument_size_in_bytes
        + compiled.output_size_in_bytes
        - compiled.alias_size_in_bytes
        + compiled.temp_size_in_bytes
    )
    peak_bytes = (devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    # The first steps warm up.
    measured_s = float(np.median(seconds[len(seconds) // 4 :]))
    predicted = plan.predicted
    flops_per_s = predicted.model_flops / len(devices) / measured_s
    click.echo(f"{program} on {len(devices)} x {devices[0].device_kind}")
    click.echo(f"jax {jax.__version__}, mesh {stage.mesh}, loss {float(loss):.4f}")
    click.echo(f"{'':12} {'predicted':>12} {'measured':>12}")
    click.echo(
        f"{'step':12} {predicted.step_time_s * 1e3:9.2f} ms {measured_s * 1e3:9.2f} ms"
    )
    click.echo(
        f"{'memory':12} {predicted.memory_per_device_bytes / 1e9:9.2f} GB "
        f"{compiled_bytes / 1e9:9.2f} GB  (runtime's peak {peak_bytes / 1e9:.2f} GB)"
    )
    click.echo(
        f"{'model flops':12} {predicted.model_flops / len(devices) / 1e12:7.2f} TFLOP "
        f"{flops_per_s / 1e12:6.1f} TFLOP/s a device, predicted MFU {predicted.mfu:.1%}"
    )


if __name__ == "__main__":
    main()
