"""A mixture of experts after GShard: top-2 gating, dispatch and combine as products.

Source: Lepikhin et al. (GShard), arXiv 2006.16668, algorithms 1 and 2. The second
expert is always asked, never at random, so that a step is a function of its inputs.
Shape letters: g groups, s tokens of a group, e experts, c slots of an expert in a
group, d hidden, f inner width. As in GShard experts have no biases, and relu.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import INIT_STD, dot, normal, relu, softmax
from tepdist.zoo.program import Tree


@dataclass(frozen=True, slots=True)
class Experts:
    """Sizes of a mixture of experts.

    Attributes:
        count: Experts.
        inner: Width f of an expert's inner layer.
        capacity: Slots of an expert, in shares of a group's tokens / experts.
        group: Tokens that are gated together; divides the tokens of a step.
    """

    count: int
    inner: int
    capacity: float
    group: int

    @property
    def slots(self) -> int:
        """Tokens that one expert takes of one group."""
        return max(1, math.ceil(self.capacity * self.group / self.count))


def checked_experts(experts: Experts, tokens: int) -> Experts:
    """These experts.

    Raises:
        OptionsError: if there is one alone, or groups do not divide the tokens.
    """
    if experts.count < 2:
        raise OptionsError(
            f"experts={experts.count}, but every token goes to two",
            hint="choose at least 2 experts",
        )
    if tokens % experts.group:
        raise OptionsError(
            f"the {tokens} tokens of a step are not divided by group={experts.group}",
            hint="choose a group that divides batch times seq",
        )
    return experts


def mixture(
    x_bsd: jax.Array, params: Tree, experts: Experts
) -> tuple[jax.Array, jax.Array]:
    """Every token through its two experts.

    Args:
        x_bsd: Tokens.
        params: As from `init_experts`.
        experts: Sizes.

    Returns:
        What comes out, like `x_bsd`, zero for a token that found no free slot; and
        the auxiliary loss that balances the experts, a scalar in f32.
    """
    dtype = x_bsd.dtype
    tokens, hidden = math.prod(x_bsd.shape[:-1]), x_bsd.shape[-1]
    x_gsd = lax.reshape(x_bsd, (tokens // experts.group, experts.group, hidden))
    router_de = params["router"].astype(dtype)
    scores_gse = dot(x_gsd, router_de, contract=((2,), (0,))).astype(jnp.float32)
    combine_gsec, balance = top2(softmax(scores_gse), experts.slots)
    dispatch_gsec = (combine_gsec > 0).astype(dtype)
    sent_gecd = dot(dispatch_gsec, x_gsd, contract=((1,), (1,)), batch=((0,), (0,)))
    w1_edf, w2_efd = params["w1"].astype(dtype), params["w2"].astype(dtype)
    inner_egcf = dot(sent_gecd, w1_edf, contract=((3,), (1,)), batch=((1,), (0,)))
    done_egcd = dot(relu(inner_egcf), w2_efd, contract=((3,), (1,)), batch=((0,), (0,)))
    out_gsd = dot(
        combine_gsec.astype(dtype),
        done_egcd,
        contract=((2, 3), (0, 2)),
        batch=((0,), (1,)),
    )
    return lax.reshape(out_gsd, x_bsd.shape), balance


def top2(gates_gse: jax.Array, slots: int) -> tuple[jax.Array, jax.Array]:
    """Which slot of which expert each token goes to, and with what weight.

    First choices take slots in the order of tokens, then second choices do.

    Args:
        gates_gse: Each token's probabilities, f32.
        slots: Slots c of an expert in a group.

    Returns:
        Weights [g, s, e, c], zero but for at most two slots of a token; and the
        auxiliary loss: experts times the sum over experts of the share of tokens whose
        first choice it is and its mean probability, averaged over groups.
    """
    first_gse = choice(gates_gse)
    second_gse = choice(gates_gse * (1 - first_gse))
    gate1_gs, gate2_gs = (
        jnp.sum(gates_gse * mask, axis=2) for mask in (first_gse, second_gse)
    )
    both_gs = gate1_gs + gate2_gs
    place1_gse = lax.cumsum(first_gse, axis=1) - first_gse
    kept1_gse = first_gse * (place1_gse < slots)
    used_ge = jnp.sum(kept1_gse, axis=1, keepdims=True)
    place2_gse = lax.cumsum(second_gse, axis=1) - second_gse + used_ge
    kept2_gse = second_gse * (place2_gse < slots)
    first_gsec = spread(kept1_gse, place1_gse, gate1_gs / both_gs, slots=slots)
    second_gsec = spread(kept2_gse, place2_gse, gate2_gs / both_gs, slots=slots)
    groups, tokens, experts = gates_gse.shape
    shares_ge, means_ge = (
        jnp.sum(each, axis=1) / tokens for each in (first_gse, gates_gse)
    )
    balance = jnp.sum(shares_ge * means_ge) * experts / groups
    return first_gsec + second_gsec, balance


def choice(gates_gse: jax.Array) -> jax.Array:
    """One at each token's likeliest expert, else zero; like the gates."""
    best_gs = lax.argmax(gates_gse, 2, jnp.int32)
    return one_hot(best_gs, gates_gse.shape[2])


def spread(
    kept_gse: jax.Array, place_gse: jax.Array, gate_gs: jax.Array, *, slots: int
) -> jax.Array:
    """The gates at the slots that their tokens go to, [g, s, e, c].

    Args:
        kept_gse: One at a token's expert if it has a slot there.
        place_gse: Which slot.
        gate_gs: The token's weight of that expert.
        slots: Slots c of an expert in a group.
    """
    weight_gse = kept_gse * gate_gs[:, :, None]
    slot_gs = jnp.sum(place_gse * kept_gse, axis=2).astype(jnp.int32)
    return weight_gse[..., None] * one_hot(slot_gs, slots)[:, :, None, :]


def one_hot(index: jax.Array, size: int) -> jax.Array:
    """[..] to [.., size], f32."""
    shape = (*index.shape, size)
    places = lax.broadcasted_iota(index.dtype, shape, index.ndim)
    wanted = lax.broadcast_in_dim(index, shape, tuple(range(index.ndim)))
    return (places == wanted).astype(jnp.float32)


def init_experts(
    key: jax.Array, hidden: int, experts: Experts, *, out_std: float
) -> Tree:
    """Router and experts, f32; `out_std` is that of the last layer."""
    keys = jax.random.split(key, 3)
    e, f = experts.count, experts.inner
    return {
        "router": normal(keys[0], (hidden, e), INIT_STD),
        "w1": normal(keys[1], (e, hidden, f), INIT_STD),
        "w2": normal(keys[2], (e, f, hidden), out_std),
    }
