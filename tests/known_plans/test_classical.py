"""The plans that people made by hand fall out of the search, with no constraints.

The forced mesh has four devices on the nominal cluster.
"""

import jax
import pytest

from .models import (
    Transformer,
    assert_data_parallel,
    assert_equals_one_device,
    large_collectives,
    mlp,
    planned,
)


def test_a_narrow_mlp_on_a_large_batch_is_data_parallel():
    case = mlp(width=32, batch=256)
    traced, executable = planned(case)
    assert_data_parallel(case, executable)
    assert_equals_one_device(case, traced, executable)


def test_a_wide_mlp_on_a_small_batch_alternates_columns_and_rows():
    case = mlp(width=256, batch=32)
    traced, executable = planned(case)
    assert large_collectives(executable) == {("all_reduce", 32 * 256 * 4): 5}
    shardings = executable.plan.argument_shardings()
    cut = [shardings[f"params/{layer}/w"].dims for layer in range(6)]
    rows, columns = (("x",), ()), ((), ("x",))
    assert cut in ([columns, rows] * 3, [rows, columns] * 3)
    assert_equals_one_device(case, traced, executable)


DATA_PARALLEL = {
    "plain": Transformer(),
    "post_norm_relu": Transformer(norm="post", bias=True, act=jax.nn.relu),
    "gpt": Transformer(norm="pre", bias=True, causal=True, fused=False),
}


@pytest.mark.parametrize("written", DATA_PARALLEL.values(), ids=DATA_PARALLEL)
def test_a_narrow_transformer_on_a_large_batch_is_data_parallel(written):
    case = written.case(batch=64, seq=64, hidden=32)
    traced, executable = planned(case)
    assert_data_parallel(case, executable)
    assert_equals_one_device(case, traced, executable)


# The first layer's input needs no gradient, unless a norm's parameters stand there.
TENSOR_PARALLEL = {
    "heads_as_dims": (Transformer(split="dims"), 7),
    "interleaved": (Transformer(split="interleave"), 7),
    "post_norm": (Transformer(norm="post", bias=True, split="interleave"), 7),
    "gpt": (Transformer(norm="pre", bias=True, causal=True, split="dims"), 8),
}


@pytest.mark.parametrize(
    ("written", "count"), TENSOR_PARALLEL.values(), ids=TENSOR_PARALLEL
)
def test_a_wide_transformer_on_a_small_batch_is_tensor_parallel(written, count):
    case = written.case(batch=8, seq=8, hidden=128)
    traced, executable = planned(case)
    assert large_collectives(executable) == {("all_reduce", 8 * 8 * 128 * 4): count}
    assert_equals_one_device(case, traced, executable)


def test_a_fused_projection_cut_in_thirds_moves_only_what_the_cut_asks_for():
    # Thirds of a dim in four shards do not line up: q, k and v have to move, as their
    # gradients have to move back, each a quarter of itself.
    case = Transformer().case(batch=8, seq=8, hidden=128)
    traced, executable = planned(case)
    found = large_collectives(executable)
    activation = 8 * 8 * 128 * 4
    assert found.pop(("all_reduce", activation)) == 7
    assert {kind for kind, _ in found} <= {"all_to_all", "collective_permute"}
    assert max(bytes_ for _, bytes_ in found) < activation
    assert_equals_one_device(case, traced, executable)
