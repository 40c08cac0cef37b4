"""Why a collective is there is said in the user's own names."""

from tepdist.plans.reasons import Reasons

from .models import SCALAR_BYTES, Case, conv_net, expert_layer, mlp, planned


def reasons(case: Case) -> list[str]:
    _, executable = planned(case)
    found = Reasons(executable.plan)
    return [
        found.of(collective)
        for stage in executable.plan.stages
        for collective in stage.collectives
        if collective.bytes_ > SCALAR_BYTES
    ]


def test_gradients_are_named_by_their_parameters():
    said = reasons(mlp(width=32, batch=256))
    named = {text.partition(":")[0] for text in said}
    assert named == {f"gradient of params/{layer}/w" for layer in range(6)}
    assert all("sums over what x cuts of" in text for text in said)


def test_activations_are_named_by_the_weights_that_are_cut():
    said = reasons(mlp(width=256, batch=32))
    assert len(said) == 5
    for text in said:
        assert not text.startswith("gradient")
        assert "params/" in text


def test_gradients_of_kernels_are_named_too():
    said = reasons(conv_net(batch=64, size=8, channels=8))
    named = {text.partition(":")[0] for text in said}
    assert {f"gradient of params/{layer}/kernel" for layer in range(3)} <= named


def test_a_resharding_says_who_reads_it_how():
    said = reasons(expert_layer(batch=16, seq=16, hidden=32, experts=8, inner=256))
    assert any(" lies [" in text and " reads it as [" in text for text in said)
