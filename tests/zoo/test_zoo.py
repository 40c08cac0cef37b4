"""Built-in programs: their sizes and keys, and that their training works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import zoo
from tepdist.errors import OptionsError
from tepdist.zoo import text

TEXT = "hidden=16,heads=4,seq=8,vocab=32,batch=4"
GPT = f"gpt:{TEXT}"
LLAMA = f"llama:inner=32,kv_heads=2,{TEXT}"
MOE = f"moe:layers=4,inner=32,experts=4,group=16,{TEXT}"
BERT = f"bert:masked=2,{TEXT}"
TRAINED = (
    "mlp:layers=3,width=16,batch=8,lr=0.01",
    "transformer:hidden=16,heads=4,seq=4,batch=4,lr=0.01",
    f"{GPT},dtype=bf16,lr=0.01",
    f"{GPT},dtype=f16,lr=0.01",
    f"{LLAMA},layers=1,lr=0.01",
    f"{MOE},lr=0.01,scan=true",
    "moe_layer:hidden=16,inner=32,experts=4,group=8,seq=8,batch=4,lr=0.01",
    f"{BERT},layers=1,lr=0.01",
    "vgg:width=4,dense=16,batch=4,lr=0.02",
    "resnet:width=4,batch=4",
    "unet:levels=1,width=4,image=8,batch=4,lr=0.1",
)
# Compiled in less time, for programs that run in none.
QUICK = {"xla_backend_optimization_level": 0}
# As the sizes' papers say, within a hundredth.
PUBLISHED = {
    "gpt:345m": 355e6,
    "gpt:760m": 760e6,
    "gpt:1.3b": 1.314e9,
    "gpt:2.6b": 2.65e9,
    "gpt:6.7b": 6.65e9,
    "gpt:15b": 15.4e9,
    "gpt:39b": 39.1e9,
    "gpt:76b": 76.1e9,
    "gpt:175b": 175e9,
    "moe:10b": 10.2e9,
    "moe:70b": 70.4e9,
    "moe:140b": 139e9,
    "llama:70b": 70.6e9,
    "llama:405b": 405e9,
    "bert:small": 28.8e6,
    "bert:base": 109.5e6,
    "bert:large": 335e6,
    "unet:31m": 31.0e6,
}
# As other implementations count, exactly: torchvision; Llama's own weights.
COUNTED = {
    "llama:8b": 8_030_261_248,
    "vgg:11": 132_863_336,
    "vgg:16": 138_357_544,
    "vgg:19": 143_667_240,
    "resnet:18": 11_689_512,
    "resnet:34": 21_797_672,
    "resnet:50": 25_557_032,
    "resnet:101": 44_549_160,
    "resnet:152": 60_192_808,
    "resnet:wide50": 68_883_240,
    "resnet:wide101": 126_886_696,
}


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def count(program):
    return sum(leaf.size for leaf in jax.tree.leaves(program.state["params"]))


def begin(program):
    # This kind of key compiles in a fifth of the time.
    key = jax.random.key(0, impl="rbg")
    return jax.jit(program.init, compiler_options=QUICK)(key)


def train(program, state, steps):
    """The state after these steps, and the loss of each."""
    step = jax.jit(program.train_step, compiler_options=QUICK)
    batch = program.make_batch(0)
    losses = []
    for _ in range(steps):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return state, losses


@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_named_size_has_the_parameters_of_its_name(spec):
    assert count(zoo.build(spec)) == pytest.approx(PUBLISHED[spec], rel=0.01)


@pytest.mark.parametrize("spec", COUNTED)
def test_a_named_size_has_exactly_the_parameters_that_others_count(spec):
    assert count(zoo.build(spec)) == COUNTED[spec]


@pytest.mark.parametrize("spec", TRAINED)
def test_training_lowers_the_loss_and_keeps_abstract_shapes(spec):
    program = zoo.build(spec)
    state, losses = train(program, begin(program), 20)
    assert losses[-1] < 0.9 * losses[0]
    assert shapes(state) == shapes(program.state)
    assert shapes(program.make_batch(1)) == shapes(program.batch)
    floats = {
        leaf.dtype
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    assert floats == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("spec", "loop"),
    [
        (GPT, "scan=true"),
        (LLAMA, "scan=true,remat=full"),
        (MOE, "scan=true,remat=full"),
        (MOE, "remat=full"),
    ],
)
def test_scan_and_recomputation_change_no_number(spec, loop):
    plain = zoo.build(spec)
    state = begin(plain)
    after, losses = train(plain, state, 2)
    other = zoo.build(f"{spec},{loop}")
    is_scan = "scan" in loop
    found, found_losses = train(other, stacked(state) if is_scan else state, 2)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5),
        found["params"],
        stacked(after)["params"] if is_scan else after["params"],
    )


def stacked(state):
    """The state of a loop over layers that are a tuple in this state."""
    if isinstance(state, dict):
        return {
            name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *value)
            if name == "h"
            else stacked(value)
            for name, value in state.items()
        }
    if isinstance(state, tuple):
        parts = [stacked(each) for each in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def test_a_loop_begins_with_the_parameters_of_its_layers():
    plain, loop = (
        jax.jit(zoo.build(spec).init, compiler_options=QUICK)(jax.random.key(0))
        for spec in (GPT, f"{GPT},scan=true")
    )
    jax.tree.map(np.testing.assert_array_equal, stacked(plain), loop)


def test_without_an_optimizer_gradients_are_added_up():
    program = zoo.build(f"{LLAMA},layers=1,optimizer=none")
    state = begin(program)
    after_one, (loss,) = train(program, state, 1)
    after_two, losses = train(program, state, 2)
    assert losses == [loss, loss]
    assert jax.tree.structure(after_one) == jax.tree.structure(program.state)
    for one, two in zip(
        jax.tree.leaves(after_one["gradients"]),
        jax.tree.leaves(after_two["gradients"]),
        strict=True,
    ):
        assert np.any(one)
        np.testing.assert_allclose(two, 2 * one, rtol=1e-5, atol=1e-9)


def test_running_averages_are_state_that_no_optimizer_sees():
    program = zoo.build("resnet:width=4,batch=4")
    stats, opt = program.state["stats"], program.state["opt"]
    moved = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(stats)}
    assert moved == {"mean", "var"}
    moments = sum(leaf.size for leaf in jax.tree.leaves(opt))
    assert moments == count(program)


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
        ("llama:heads=64", "is not divided by twice heads=64", "even"),
        ("llama:kv_heads=3", "heads=4 is not divided by kv_heads=3", "divide"),
        ("moe:layers=3", "layers=3 is odd", "even"),
        ("moe:group=48", "256 tokens of a step are not divided by group=48", "group"),
        ("moe_layer:experts=1", "experts=1, but every token goes to two", "at least 2"),
        ("bert:masked=33", "masked=33 of seq=32 tokens", "fewer"),
        ("vgg:image=48", "image=48 is not a multiple of 32", "halve"),
        ("vgg:depth=12", "key depth=12 is not 11 or 13 or 16 or 19", ""),
        ("unet:image=18", "image=18 cannot be halved levels=2 times", "multiple of 4"),
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
