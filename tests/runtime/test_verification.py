"""Plans held against the compiler: this machine's, and XLA:GPU without a GPU."""

import importlib.util

import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import ClusterError
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options, Plan
from tepdist.runtime.gpu_targets import TARGETS
from tepdist.runtime.verification import verify

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins.xla_cuda13") is None
    if importlib.util.find_spec("jax_plugins")
    else True,
    reason="needs the extra [gpu-check]",
)


def plan_of(program: str, cluster: str) -> Plan:
    built = zoo.build(program)
    traced = trace(built.train_step, (built.state, built.batch), {})
    options = Options(level="O1")
    return compile_plan(
        traced.read(), traced.roles, parse_cluster(cluster), options=options
    )


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_an_mlp_is_compiled_as_it_was_priced(dtype: str) -> None:
    (check,) = verify(plan_of(f"mlp:layers=2,width=64,batch=64,dtype={dtype}", "cpu:4"))
    assert check.collectives
    for each in check.collectives:
        assert each.compiled_bytes == pytest.approx(each.predicted_bytes, rel=0.02)
        overlap = each.overlap
        assert overlap.hidden + overlap.exposed == each.compiled_bytes
    assert check.compiled_exposed_s == pytest.approx(check.predicted_exposed_s)


@pytest.mark.parametrize(
    ("cluster", "told"),
    [("2xtpu-v4", "no compiler for tpu-v4"), ("2xv100-16g", "v100-16g is not")],
)
def test_what_cannot_be_verified_says_why(cluster: str, told: str) -> None:
    with pytest.raises(ClusterError, match=told):
        verify(plan_of("mlp:layers=2,width=64,batch=64", cluster))


@pytest.mark.slow
@needs_plugin
@pytest.mark.parametrize("kind", TARGETS)
def test_gpus_that_are_not_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    plan = plan_of("mlp:width=1024,batch=1024", f"2x4x{kind}")
    (check,) = verify(plan)
    assert check.compiled_peak_bytes is not None
    assert check.compiled_peak_bytes >= check.predicted_peak_bytes / 2
