"""Candidate meshes: every factorisation into one and two axes."""

import math

import pytest

from tepdist.errors import OptionsError
from tepdist.search.meshes import candidate_meshes
from tepdist.sharding import Mesh


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8, 12, 30, 1024])
def test_every_factorisation_comes_once(count):
    shapes = [mesh.shape for mesh in candidate_meshes(count, None)]
    assert len(set(shapes)) == len(shapes)
    assert all(math.prod(shape) == count for shape in shapes)
    pairs = {(a, count // a) for a in range(2, count) if count % a == 0}
    assert set(shapes) == {(count,)} | pairs


def test_a_forced_mesh_is_the_only_one():
    mesh = Mesh.parse("data=3,model=2")
    assert candidate_meshes(6, mesh) == (mesh,)


def test_a_forced_mesh_of_other_size_is_refused():
    with pytest.raises(OptionsError) as refusal:
        candidate_meshes(8, Mesh.parse("2x3"))
    assert refusal.value.problem == "mesh x=2,y=3 has 6 devices, the cluster 8"
    assert refusal.value.hint is not None
