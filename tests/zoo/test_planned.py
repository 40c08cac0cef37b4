"""The built-in models, planned for eight devices, compute what one device does."""

import jax
import numpy as np
import pytest

import tepdist
from tepdist import zoo

TEXT = "hidden=32,heads=4,seq=16,vocab=64,batch=8"
SPECS = (
    f"llama:inner=64,layers=1,kv_heads=2,{TEXT}",
    f"moe:inner=64,experts=8,group=16,{TEXT}",
    pytest.param(
        f"moe:inner=64,experts=8,group=16,layers=4,scan=true,remat=full,{TEXT}",
        marks=pytest.mark.slow,
    ),
    f"bert:layers=1,masked=4,{TEXT}",
    "vgg:depth=19,width=4,dense=16,batch=8",
    "resnet:width=4,batch=8",
    "unet:width=4,batch=8",
)


@pytest.mark.parametrize("spec", SPECS)
def test_a_planned_model_computes_what_one_device_computes(spec):
    program = zoo.build(spec)
    step = tepdist.parallelize(program.train_step, cluster="cpu:8")
    single = jax.jit(program.train_step)
    init = jax.jit(program.init, compiler_options={"xla_backend_optimization_level": 0})
    state = expected = jax.tree.map(np.asarray, init(jax.random.key(0, impl="rbg")))
    for seed in range(2):
        batch = program.make_batch(seed)
        state, loss = step(state, batch)
        expected, expected_loss = single(expected, batch)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
    for (path, found), wanted in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(expected), strict=True
    ):
        scale = np.max(np.abs(wanted), initial=1e-30)
        error = np.max(np.abs(np.subtract(found, wanted)), initial=0) / scale
        assert error < 1e-3, jax.tree_util.keystr(path)
