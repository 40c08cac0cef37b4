"""What a planned step costs beside a hand-written one, here and through a server.

    python benchmarks/overhead.py [--program zoo:...] [--rounds 40]

Every way trains the same model on the same batches over 8 virtual CPU devices, and
reads each loss one step late:

- `pinned`: the caller's own `jax.jit` of `plan.constrain(train_step)`, with the plan's
  shardings and donation. It runs the same collectives: the yardstick.
- `plain`: the caller's own `jax.jit` of `train_step` with the plan's in and out
  shardings alone; its interior is the compiler's choice. Shown for comparison.
- `planned`: `tepdist.parallelize`.
- `served`: the same through a gRPC server on loopback, in a process of its own.

A round pairs each way with the yardstick: a block of steps of both, one right after
the other, in random order. Of the pairs' ratios the median is given, and its upper
95 % bound by bootstrap. `pinned` is paired with itself too: what its row is off 1 is
the machine's noise. Ends with 1 if a bound is above its limit.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import click
import jax
import numpy as np
from machine import load_text, machine_lines

import tepdist
from tepdist.demo.__main__ import MODEL
from tepdist.demo.training import CLUSTER, batches, running_server
from tepdist.zoo.entries import build
from tepdist.zoo.program import ZooProgram

LIMITS: Mapping[str, float] = MappingProxyType({"planned": 1.03, "served": 1.10})
YARDSTICK = "pinned"
NUM_RESAMPLES = 10_000
SEED = 0
# `plain` may take many times as long as the others, and is not judged.
PLAIN_ROUNDS = 3

Tree: TypeAlias = Any
Step: TypeAlias = Callable[[Tree, Tree], tuple[Tree, Any]]


@dataclass(slots=True)
class Way:
    """One way to run the steps, with its state so far.

    Attributes:
        step: `(state, batch) -> (state, loss)`.
        state: After the steps so far.
    """

    step: Step
    state: Tree

    def run(self, data: Sequence[Tree]) -> float:
        """Mean time of a step of a block on these batches [s]."""
        begin_s = time.perf_counter()
        previous = None
        for batch in data:
            self.state, loss = self.step(self.state, batch)
            if previous is not None:
                float(previous)
            previous = loss
        float(previous)
        # Two programs at once in 8 devices' threads would wait for each other.
        jax.tree.leaves(self.state)[-1].block_until_ready()
        return (time.perf_counter() - begin_s) / len(data)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long as the yardstick a way takes.

    Attributes:
        median: Of the rounds' ratios.
        upper: Its upper 95 % bound.
    """

    median: float
    upper: float


# Mean step time of a way and of the yardstick beside it [s].
Pair: TypeAlias = tuple[float, float]


@click.command()
@click.option("--program", default=f"zoo:{MODEL}", show_default=True)
@click.option("--rounds", type=click.IntRange(5), default=40, show_default=True)
@click.option("--block", type=click.IntRange(1), default=8, show_default=True)
@click.option("--plain/--no-plain", default=True, help="Also the plain jit.")
@click.option("--server/--no-server", default=True, help="Also through a server.")
def main(*, program: str, rounds: int, block: int, plain: bool, server: bool) -> None:
    """Measure what a planned step costs beside a hand-written one."""
    click.echo("\n".join(machine_lines()))
    model = build(program.removeprefix("zoo:"))
    data = list(batches(model, block))
    ways = here(model, data, plain=plain)
    click.echo(f"program  {model.name}, {len(jax.tree.leaves(model.state))} leaves")
    with served(model, data, wanted=server) as more:
        pairs = measure({**ways, **more}, data, rounds)
    click.echo(f"load     {load_text()} after")
    ratios = report(pairs)
    missed = [name for name, ratio in ratios.items() if ratio.upper > LIMITS[name]]
    sys.exit(1 if missed else 0)


def here(model: ZooProgram, data: Sequence[Tree], *, plain: bool) -> dict[str, Way]:
    """The ways of this process, each after its first block, which compiles."""
    step = tepdist.parallelize(model.train_step, cluster=CLUSTER)
    key = jax.random.key(SEED)
    initial = jax.device_get(jax.jit(model.init)(key))
    ways = {"planned": Way(step, initial)}
    ways["planned"].run(data)
    plan, shape = step.plan, step.plan.stages[0].mesh
    mesh = jax.make_mesh(shape.shape, shape.names)
    placed = {
        "in_shardings": plan.in_shardings(mesh),
        "out_shardings": plan.out_shardings(mesh),
        "donate_argnums": 0,
    }
    fns = {YARDSTICK: plan.constrain(model.train_step)}
    if plain:
        fns["plain"] = model.train_step
    for name, fn in fns.items():
        state = jax.device_put(initial, placed["in_shardings"][0])
        ways[name] = Way(jax.jit(fn, **placed), state)
        ways[name].run(data)
    return ways


@contextmanager
def served(
    model: ZooProgram, data: Sequence[Tree], *, wanted: bool
) -> Iterator[dict[str, Way]]:
    """The way through a server, which lives as long as the context."""
    if not wanted:
        yield {}
        return
    with running_server() as address, tepdist.connect(address) as session:
        step = session.parallelize(model.train_step)
        way = Way(step, session.init(model.init, jax.random.key(SEED)))
        way.run(data)
        yield {"served": way}


def measure(
    ways: Mapping[str, Way], data: Sequence[Tree], rounds: int
) -> dict[str, list[Pair]]:
    """Each way's pairs."""
    order = np.random.default_rng(SEED)
    pairs: dict[str, list[Pair]] = {name: [] for name in ways}
    for number in range(rounds):
        names = [name for name in ways if name != "plain" or number < PLAIN_ROUNDS]
        for name in order.permutation(names):
            is_first = order.random() < 0.5
            both = (ways[name], ways[YARDSTICK])
            first, second = (way.run(data) for way in both[:: 1 if is_first else -1])
            pairs[name].append((first, second) if is_first else (second, first))
    return pairs


def ratio_of(pairs: Sequence[Pair]) -> Ratio:
    """The median of the pairs' ratios.

    >>> ratio_of([(2.0, 1.0)] * 9)
    Ratio(median=2.0, upper=2.0)
    """
    ratios = np.divide(*np.transpose(pairs))
    picks = np.random.default_rng(SEED).integers(
        len(ratios), size=(NUM_RESAMPLES, len(ratios))
    )
    medians = np.median(ratios[picks], axis=1)
    return Ratio(float(np.median(ratios)), float(np.quantile(medians, 0.95)))


def report(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, Ratio]:
    """Prints the table; returns the ratios that have a limit."""
    click.echo(
        f"\n{'way':8} {'rounds':>6} {'median':>9} {YARDSTICK:>9} {'ratio':>7} "
        f"{'95 %':>7}  limit"
    )
    judged = {}
    for name, found in pairs.items():
        ratio = ratio_of(found)
        way_ms, yardstick_ms = np.median(found, axis=0) * 1e3
        verdict = ""
        if name in LIMITS:
            judged[name] = ratio
            holds = "holds" if ratio.upper <= LIMITS[name] else "MISSED"
            verdict = f"{LIMITS[name]:.2f} {holds}"
        click.echo(
            f"{name:8} {len(found):6} {way_ms:6.2f} ms {yardstick_ms:6.2f} ms "
            f"{ratio.median:7.4f} {ratio.upper:7.4f}  {verdict}"
        )
    return judged


if __name__ == "__main__":
    main()
