"""Built-in programs: their sizes, keys, and that what they compute is right."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import zoo
from tepdist.errors import OptionsError
from tepdist.zoo import gpt, text
from tepdist.zoo.blocks import apply_stack, attention, gelu, init_layer, init_stack
from tepdist.zoo.gpt import SIZES

SMALL = (
    "mlp:layers=3,width=16,batch=8",
    "transformer:hidden=16,heads=4,seq=4,batch=4",
    "gpt:layers=2,hidden=16,heads=4,seq=8,vocab=32,batch=4",
)
STACK = functools.partial(gpt.checked_stack, causal=True, norm="pre")
NAMED_PARAMETERS = {  # millions, as the sizes' papers say
    "117m": (115, 125),
    "345m": (345, 360),
    "760m": (750, 770),
    "1.3b": (1300, 1330),
    "2.6b": (2600, 2660),
    "6.7b": (6600, 6700),
    "15b": (15000, 15500),
    "39b": (38500, 39500),
    "76b": (75500, 76500),
    "175b": (174000, 176000),
}


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def train(program, steps):
    step = jax.jit(program.train_step)
    state = jax.jit(program.init)(jax.random.key(0))
    batch = program.make_batch(0)
    losses = []
    for _ in range(steps):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return state, losses


@pytest.mark.parametrize("size", NAMED_PARAMETERS)
def test_a_named_size_has_the_parameters_of_its_name(size):
    program = zoo.build(f"gpt:{size}")
    count = sum(leaf.size for leaf in jax.tree.leaves(program.state["params"]))
    low, high = NAMED_PARAMETERS[size]
    assert low <= count / 1e6 <= high


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [(SMALL[0], "f32"), (SMALL[1], "f32"), (SMALL[2], "bf16"), (SMALL[2], "f16")],
)
def test_training_lowers_the_loss_and_keeps_abstract_shapes(spec, dtype):
    program = zoo.build(f"{spec},dtype={dtype},lr=0.01")
    state, losses = train(program, 20)
    assert losses[-1] < 0.9 * losses[0]
    assert shapes(state) == shapes(program.state)
    assert shapes(program.make_batch(1)) == shapes(program.batch)
    floats = {
        leaf.dtype
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    assert floats == {jnp.dtype(jnp.float32)}


def test_scan_and_recomputation_change_no_number():
    spec = SMALL[2]
    _, plain = train(zoo.build(spec), 3)
    _, other = train(zoo.build(f"{spec},scan=true,remat=full"), 3)
    np.testing.assert_allclose(other, plain, rtol=1e-5)


def test_the_loss_is_the_mean_cross_entropy_of_next_tokens():
    logits = jax.random.normal(jax.random.key(1), (2, 3, 11)) * 5
    targets = jax.random.randint(jax.random.key(2), (2, 3), 0, 11)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
    np.testing.assert_allclose(
        gpt.cross_entropy(logits, targets), -jnp.mean(picked), rtol=1e-6
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
    np.testing.assert_array_equal(gpt.embed(table, tokens), table[tokens])


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


def test_an_untied_head_is_a_parameter_of_its_own():
    assert "head" in zoo.build("gpt:tiny:tied=false").state["params"]
    assert "head" not in zoo.build("gpt:tiny").state["params"]


def test_a_size_is_a_set_of_keys_that_settings_override():
    program = zoo.build("zoo:gpt:175b:batch=64,seq=16")
    assert program.name == "gpt:175b:batch=64,seq=16"
    assert program.keys["layers"] == 96
    assert program.batch["tokens"].shape == (64, 16)


@pytest.mark.parametrize(
    ("spec", "problem", "hint"),
    [
        ("gtp", "unknown program 'gtp'", "did you mean 'gpt'?"),
        ("gpt:174b", "unknown size '174b'", "175b"),
        ("gpt:tiny:batsh=4", "unknown key 'batsh'", "known: layers, hidden"),
        ("mlp:batch=0", "key batch=0 is not a positive integer", ""),
        ("mlp:dtype=int8", "key dtype=int8 is not f32 or bf16 or f16", ""),
        ("gpt:tiny:scan=yes", "key scan=yes is not true or false", ""),
        ("mlp:lr=nan", "key lr=nan is not a number not below 0", ""),
        ("mlp:batch=4,batch=8", "sets a key twice", "NAME[:SIZE]"),
        ("gpt:tiny:large", "'large' is not key=value", "NAME[:SIZE]"),
        ("gpt:heads=3", "hidden=64 is not divided by heads=3", "divide"),
    ],
)
def test_a_wrong_spec_is_named_with_a_hint(spec, problem, hint):
    with pytest.raises(OptionsError) as error:
        zoo.build(spec)
    assert problem in error.value.problem
    assert hint in (error.value.hint or "")


def test_the_catalogue_lists_what_build_takes():
    for row in zoo.catalogue():
        defaults = ",".join(f"{key.name}={key.default}".lower() for key in row.keys)
        assert zoo.build(f"{row.name}:{defaults}").name.startswith(row.name)
        for size in row.sizes:
            assert zoo.build(f"{row.name}:{size}").keys == row.sizes[size]


def test_text_windows_are_english_and_repeatable():
    batch = text.sample(3, batch=4, seq=64)
    assert batch["tokens"].shape == batch["targets"].shape == (4, 64)
    np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    again = text.sample(3, batch=4, seq=64)
    np.testing.assert_array_equal(batch["tokens"], again["tokens"])
    assert len(text.corpus()) > 300_000
    assert text.corpus().tobytes().count(b" the ") > 1000
    assert len(text.train_split()) + len(text.held_out_split()) == len(text.corpus())
