"""The demo's runs: the same batches through a server, on one device, in f64."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from tepdist.demo.double import double_step
from tepdist.errors import ConnectionLost
from tepdist.plans.types import Plan
from tepdist.service.client import connect
from tepdist.zoo import text
from tepdist.zoo.program import ZooProgram

CLUSTER = "cpu:8"
SEED = 0

Tree = Any
Step = Callable[[Tree, Tree], tuple[Tree, Any]]
Report = Callable[[str], None]  # called after each step, with a word on it


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    Attributes:
        losses: Of every step [nats per byte].
        seconds: All steps after the first, which compiles [s].
        state: At the end, as host arrays.
    """

    losses: tuple[float, ...]
    seconds: float
    state: Tree

    @property
    def step_s(self) -> float:
        """Mean time of a step [s]."""
        return self.seconds / (len(self.losses) - 1)


def train_on_server(
    program: ZooProgram,
    steps: int,
    *,
    planning: Callable[[str, float], None],
    report: Report,
) -> tuple[Plan, Run]:
    """Plans and trains as a client of a server in a process of its own."""
    with running_server() as address, connect(address, progress=planning) as session:
        step = session.parallelize(program.train_step)
        state = session.init(program.init, jax.random.key(SEED))
        run = _train(step, state, batches(program, steps), report=report)
        return step.plan, Run(run.losses, run.seconds, session.fetch(run.state))


def train_alone(program: ZooProgram, steps: int, *, report: Report) -> Run:
    """Trains with plain `jax.jit` on one device of this process."""
    step = jax.jit(program.train_step, donate_argnums=0)
    state = jax.jit(program.init)(jax.random.key(SEED))
    run = _train(step, state, batches(program, steps), report=report)
    return Run(run.losses, run.seconds, jax.device_get(run.state))


def train_in_double(program: ZooProgram, steps: int, *, report: Report) -> Run:
    """The same on one device with every f32 an f64: what rounding costs one device.

    Turns 64-bit types on for the rest of the process.
    """
    state = jax.jit(program.init)(jax.random.key(SEED))
    jax.config.update("jax_enable_x64", True)
    step = double_step(program.train_step, (program.state, program.batch))
    run = _train(step, jax.device_get(state), batches(program, steps), report=report)
    return Run(run.losses, run.seconds, jax.device_get(run.state))


def batches(program: ZooProgram, steps: int) -> Iterator[Tree]:
    """The same windows of text for every run."""
    batch, seq = program.batch["tokens"].shape
    for step in range(steps):
        yield text.sample(step, batch, seq)


@contextmanager
def running_server() -> Iterator[str]:
    """A server in a process of its own; its address.

    Raises:
        ConnectionLost: if it does not start.
    """
    command = (sys.executable, "-m", "tepdist", "serve", "--cluster", CLUSTER)
    with subprocess.Popen(
        (*command, "--listen", "127.0.0.1:0"), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise ConnectionLost(
                    "the demo's server did not start",
                    where=" ".join(command),
                    hint="its own error stands above",
                )
            yield line.split()[-1]
        finally:
            process.terminate()


def _train(step: Step, state: Tree, data: Iterator[Tree], *, report: Report) -> Run:
    """Runs a step on each batch; reading a loss waits only for the step before."""
    losses: list[Any] = []
    start = time.perf_counter()
    for index, batch in enumerate(data):
        state, loss = step(state, batch)
        losses.append(loss)
        if index == 0:
            float(loss)  # waits for the first step, which compiles
            start = time.perf_counter()
        else:
            report(f"loss {float(losses[index - 1]):.3f}")
    values = tuple(float(loss) for loss in losses)
    seconds = time.perf_counter() - start
    report(f"loss {values[-1]:.3f}")
    return Run(values, seconds, state)
