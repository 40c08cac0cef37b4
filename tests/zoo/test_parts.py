"""Parts of the built-in models compute what their papers, or JAX itself, say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.zoo import bert, blocks, conv, experts, gpt, llama, losses
from tepdist.zoo.blocks import apply_stack, attention, gelu, init_layer, init_stack
from tepdist.zoo.gpt import SIZES

STACK = functools.partial(gpt.checked_stack, causal=True, norm="pre")


def draw(seed, *shape):
    numbers = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return jnp.asarray(numbers)


def test_the_loss_is_the_mean_cross_entropy_of_next_tokens():
    logits = jax.random.normal(jax.random.key(1), (2, 3, 11)) * 5
    targets = jax.random.randint(jax.random.key(2), (2, 3), 0, 11)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
    np.testing.assert_allclose(
        losses.cross_entropy(logits, targets), -jnp.mean(picked), rtol=1e-6
    )


def test_attention_equals_that_of_jax():
    stack = STACK(gpt.GptKeys(hidden=32, heads=4))

    @jax.jit
    def both(key):
        params = init_layer(key, stack)["attn"]
        x_bsd = jax.random.normal(jax.random.key(1), (2, 6, 32))
        query, key, value = jnp.einsum("bsd,dtnh->tbsnh", x_bsd, params["wqkv"])
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        wanted = jnp.einsum("bsnh,nhd->bsd", mixed, params["wo"])
        return attention(x_bsd, params, stack), wanted

    np.testing.assert_allclose(*both(jax.random.key(0)), atol=1e-5)


def test_gelu_and_embedding_equal_those_of_jax():
    x = jnp.linspace(-5, 5, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x), atol=1e-5)
    table, tokens = jnp.arange(12.0).reshape(6, 2), jnp.array([[0, 5, 3]])
    np.testing.assert_array_equal(blocks.embed(table, tokens), table[tokens])


def test_a_later_token_does_not_change_an_earlier_prediction():
    keys = dataclasses.replace(SIZES["tiny"], layers=1)
    stack = STACK(keys)
    params = jax.jit(lambda key: gpt.init_params(key, keys, stack))(jax.random.key(0))
    logits = jax.jit(lambda tokens: gpt.logits(params, tokens, stack))
    tokens = jnp.zeros((1, keys.seq), jnp.int32)
    changed = tokens.at[0, 20:].set(7)
    before, after = (logits(each) for each in (tokens, changed))
    np.testing.assert_array_equal(before[:, :20], after[:, :20])
    assert not np.array_equal(before[:, 20:], after[:, 20:])


def test_without_a_mask_a_position_is_told_apart_by_its_content_only():
    stack = dataclasses.replace(
        STACK(gpt.GptKeys(layers=1, hidden=16)), causal=False, norm="post"
    )

    @jax.jit
    def both(key):
        params = init_stack(key, stack)
        x_bsd = jax.random.normal(key, (1, 6, 16))
        forward = apply_stack(x_bsd, params, stack)
        return forward, apply_stack(x_bsd[:, ::-1], params, stack)[:, ::-1]

    np.testing.assert_allclose(*both(jax.random.key(0)), atol=1e-5)


def test_attention_with_shared_keys_equals_that_of_jax():
    keys = llama.LlamaKeys(hidden=32, heads=4, kv_heads=2)
    params = jax.jit(lambda key: llama.init_layer(key, keys))(jax.random.key(0))["attn"]
    x_bsd = draw(1, 2, 6, 32)

    @jax.jit
    def wanted(x_bsd):
        query = jnp.einsum("bsd,dkgh->bskgh", x_bsd, params["wq"])
        key, value = (
            jnp.einsum("bsd,dkh->bskh", x_bsd, params[name]) for name in ("wk", "wv")
        )
        query, key = (llama.rotate(each, keys.theta) for each in (query, key))
        mixed = jax.nn.dot_product_attention(
            query.reshape(2, 6, 4, 8), key, value, is_causal=True
        )
        return jnp.einsum("bsnh,nhd->bsd", mixed, params["wo"].reshape(4, 8, 32))

    found = jax.jit(lambda x: llama.attention(x, params, keys))(x_bsd)
    np.testing.assert_allclose(found, wanted(x_bsd), atol=1e-6)


def test_rotary_positions_turn_pairs_as_complex_numbers():
    x, theta = draw(0, 2, 5, 3, 8), 100.0
    pairs = np.asarray(x[..., :4]) + 1j * np.asarray(x[..., 4:])
    angles = np.arange(5)[:, None] * theta ** (-2 * np.arange(4) / 8)
    turned = pairs * np.exp(1j * angles)[None, :, None, :]
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(llama.rotate(x, theta), wanted, atol=1e-5)


def test_rms_norm_leaves_a_root_mean_square_of_the_gain():
    normed = llama.rms_norm(draw(0, 2, 3, 64) * 7, jnp.full((64,), 3.0))
    squares = np.mean(np.square(normed), axis=-1)
    np.testing.assert_allclose(squares, np.full((2, 3), 9.0), rtol=1e-4)


def gshard_top2(gates, slots):
    """Algorithm 1 of the GShard paper for one group, token by token; [s, e, c]."""
    tokens, num_experts = gates.shape
    weights = np.zeros((tokens, num_experts, slots))
    used = np.zeros(num_experts, int)
    order = np.argsort(-gates, axis=1, kind="stable")[:, :2]
    for rank in (0, 1):
        for token in range(tokens):
            chosen = order[token, rank]
            if used[chosen] < slots:
                both = gates[token, order[token]].sum()
                weights[token, chosen, used[chosen]] = gates[token, chosen] / both
                used[chosen] += 1
    return weights


@pytest.mark.parametrize("slots", [1, 3, 12])
def test_gating_is_the_published_algorithm(slots):
    gates_gse = jax.nn.softmax(draw(slots, 3, 12, 5) * 2)
    found, balance = jax.jit(experts.top2, static_argnums=1)(gates_gse, slots)
    wanted = [gshard_top2(np.asarray(each), slots) for each in gates_gse]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    shares = np.mean(np.eye(5)[np.argmax(gates_gse, axis=2)], axis=1)
    means = np.mean(gates_gse, axis=1)
    np.testing.assert_allclose(balance, np.mean(np.sum(shares * means, 1)) * 5, 1e-5)


def test_evenly_used_experts_have_the_least_balance_loss():
    even = jnp.eye(4)[None] * 0.97 + 0.01
    uneven = jnp.broadcast_to(even[:, :1], even.shape)
    (_, least), (_, more) = (experts.top2(gates, 4) for gates in (even, uneven))
    np.testing.assert_allclose(least, 1.0, rtol=0.05)
    assert more > 3


def test_with_slots_for_all_a_token_is_the_mean_of_its_two_experts():
    sizes = experts.Experts(count=4, inner=16, capacity=4.0, group=6)
    init = functools.partial(experts.init_experts, hidden=8, experts=sizes, out_std=0.1)
    params = jax.jit(init)(jax.random.key(0))
    x_bsd = draw(1, 2, 12, 8)
    found, _ = jax.jit(lambda x: experts.mixture(x, params, sizes))(x_bsd)
    gates = np.array(jax.nn.softmax(x_bsd @ params["router"]))
    gates[gates < np.sort(gates, axis=-1)[..., -2:-1]] = 0
    gates /= gates.sum(axis=-1, keepdims=True)
    inner = jax.nn.relu(jnp.einsum("bsd,edf->bsef", x_bsd, params["w1"]))
    each = jnp.einsum("bsef,efd->bsed", inner, params["w2"])
    wanted = jnp.einsum("bse,bsed->bsd", gates, each)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_batch_norm_normalises_channels_and_moves_its_averages():
    x_bhwc = draw(0, 4, 5, 6, 3) * 3 + 2
    params = {"norm": {"g": jnp.full((3,), 2.0), "b": jnp.full((3,), -1.0)}}
    stats = {"mean": jnp.ones((3,)), "var": jnp.ones((3,))}
    out, after = conv.batch_norm(x_bhwc, params, stats)
    np.testing.assert_allclose(np.mean(out, axis=(0, 1, 2)), [-1] * 3, atol=1e-5)
    np.testing.assert_allclose(np.std(out, axis=(0, 1, 2)), [2] * 3, rtol=1e-4)
    mean, var = np.mean(x_bhwc, axis=(0, 1, 2)), np.var(x_bhwc, axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], 0.9 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
def test_max_pool_takes_the_largest_of_each_window(window, stride):
    x_bhwc = draw(0, 1, 8, 8, 2)
    padded = np.pad(
        x_bhwc,
        [(0, 0), (window // 2,) * 2, (window // 2,) * 2, (0, 0)],
        constant_values=-np.inf,
    )[:, (window + 1) % 2 :, (window + 1) % 2 :]
    wanted = [
        [
            padded[0, row : row + window, column : column + window].max(axis=(0, 1))
            for column in range(0, 8, stride)
        ]
        for row in range(0, 8, stride)
    ]
    found = conv.max_pool(x_bhwc, window=window, stride=stride)
    np.testing.assert_array_equal(found[0], wanted)


def test_masked_positions_are_picked_from_their_own_sequence():
    x_bsd, positions = draw(0, 3, 5, 2), jnp.array([[0, 4], [1, 2], [3, 3]])
    wanted = jnp.take_along_axis(x_bsd, positions[..., None], axis=1)
    np.testing.assert_array_equal(bert.pick(x_bsd, positions), wanted)


def test_masked_tokens_are_hidden_and_named_as_targets():
    keys = bert.BertKeys(seq=16, masked=5, vocab=50, batch=3)
    batch = bert.make_masked(0, keys)
    hidden = np.take_along_axis(batch["tokens"], batch["positions"], axis=1)
    assert np.all(hidden == 49)
    assert np.sum(batch["tokens"] == 49) == hidden.size
    assert np.all(batch["targets"] < 49)
    assert np.all(np.diff(batch["positions"], axis=1) > 0)
