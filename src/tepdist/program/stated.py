"""What a program says itself about where its values lie, in one form.

Programs come with a mesh, with shardings of arguments, results and values on it, and
with regions that each device runs on its shards (``jax.shard_map``). What is left of
that says something: constraints with at least one dim cut or closed, argument
shardings likewise, and manual computations whose shardings are closed. All are on one
``sdy.mesh @mesh``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func, sdy

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.collectives import settle_collective
from tepdist.program.graph import COLLECTIVES, CONSTRAINT, MANUAL
from tepdist.program.inline import find_ops
from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh

MESH_NAME = "mesh"
MESH = "sdy.mesh"
SHARDING = "sdy.sharding"
LIFT_MESHES = "sdy-lift-inlined-meshes"


@dataclass(frozen=True, slots=True)
class Stated:
    """A sharding as a program states it.

    Attributes:
        mesh: What it is on.
        dims: For each dim the axes that cut it, major first; axes of size 1 left out.
        is_open: For each dim whether further axes may cut it.
        whole: Axes that must cut nothing.
    """

    mesh: Mesh
    dims: tuple[tuple[str, ...], ...]
    is_open: tuple[bool, ...]
    whole: tuple[str, ...]

    @property
    def says_something(self) -> bool:
        if self.mesh.num_devices == 1:
            return False
        return any(self.dims) or not all(self.is_open) or bool(self.whole)

    def attribute(self) -> ir.Attribute:
        """As Shardy writes it, on ``@mesh``, in the current context."""
        dims = [
            sdy.DimensionShardingAttr.get(_axes(axes), is_closed=not is_open)
            for axes, is_open in zip(self.dims, self.is_open, strict=True)
        ]
        return sdy.TensorShardingAttr.get(MESH_NAME, dims, _axes(self.whole))

    def closed(self) -> "Stated":
        """The same without open dims."""
        return Stated(self.mesh, self.dims, (False,) * len(self.dims), ())


def _axes(names: Sequence[str]) -> list[ir.Attribute]:
    return [sdy.AxisRefAttr.get(name) for name in names]


def read_meshes(module: ir.Module) -> dict[str, Mesh]:
    """The meshes that a module names.

    Raises:
        ProgramError: if one lists its devices in an order of its own.
    """
    return {
        ir.StringAttr(op.attributes["sym_name"]).value: _mesh(op.attributes["mesh"])
        for op in module.body.operations
        if op.operation.name == MESH
    }


def _mesh(attribute: ir.Attribute) -> Mesh:
    mesh = sdy.MeshAttr(attribute)
    axes = [sdy.MeshAxisAttr(axis) for axis in mesh.axes]
    if len(mesh.device_ids) > 1:
        raise ProgramError(
            f"the mesh {attribute} lists its devices in an order of its own",
            hint="make it of devices in their own order, as jax.make_mesh does",
        )
    return Mesh(tuple((axis.name, axis.size) for axis in axes))


def read_sharding(attribute: ir.Attribute, meshes: Mapping[str, Mesh]) -> Stated:
    """Shardy's ``#sdy.sharding<@mesh, [{"x"}, {?}]>`` as data.

    Raises:
        ProgramError: if it cuts by parts of axes or leaves partial sums.
    """
    sharding = sdy.TensorShardingAttr(attribute)
    if len(sharding.unreduced_axes):
        raise ProgramError(
            f"the program states the partial sums {attribute}",
            hint="sum them up before they leave the region",
        )
    mesh = meshes[ir.FlatSymbolRefAttr(sharding.mesh_or_ref).value]
    dims = [sdy.DimensionShardingAttr(dim) for dim in sharding.dimension_shardings]
    return Stated(
        mesh=mesh,
        dims=tuple(_names(dim.axes, mesh) for dim in dims),
        is_open=tuple(not dim.is_closed for dim in dims),
        whole=tuple(sorted(_names(sharding.replicated_axes, mesh))),
    )


def _names(axes: Sequence[ir.Attribute], mesh: Mesh) -> tuple[str, ...]:
    names = []
    for axis in map(sdy.AxisRefAttr, axes):
        if axis.sub_axis_info is not None:
            raise ProgramError(
                f"the program cuts by a part of mesh axis {axis.name!r}",
                hint="make the mesh of smaller axes",
            )
        if mesh.axis_size(axis.name) > 1:
            names.append(axis.name)
    return tuple(names)


def per_value(attribute: ir.Attribute, meshes: Mapping[str, Mesh]) -> list[Stated]:
    """The shardings in a ``#sdy.sharding_per_value<[...]>``."""
    shardings = sdy.TensorShardingPerValueAttr(attribute).shardings
    return [read_sharding(each, meshes) for each in shardings]


def settle_shardings(module: ir.Module, main: func.FuncOp) -> None:
    """Brings what `main` states to the form above, in place.

    Raises:
        ProgramError: if that is on different meshes, or in a form that is not planned.
    """
    modules.run_passes(module, LIFT_MESHES)
    meshes = read_meshes(module)
    stated: list[Stated] = []
    if meshes:
        # What was inlined may refer to meshes that go.
        modules.run_passes(module, "symbol-dce")
        stated = _settle_ops(main, meshes)
    stated += _settle_arguments(main, meshes)
    _keep_one_mesh(module, {each.mesh for each in stated})


def _settle_ops(main: func.FuncOp, meshes: Mapping[str, Mesh]) -> list[Stated]:
    stated: list[Stated] = []
    regions = find_ops(main, {MANUAL})
    for region in regions:
        edges = _settle_manual(region, meshes)
        if any(any(each.dims) for each in edges):
            _refuse_nested(region)
        stated += edges
    _state_signature(main)
    _state_op_shardings(main)
    for op in find_ops(main, {CONSTRAINT}):
        found = read_sharding(op.attributes["sharding"], meshes)
        if not found.dims or not found.says_something:
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
            continue
        op.attributes["sharding"] = found.attribute()
        stated.append(found)
    return stated


def _refuse_nested(region: ir.Operation) -> None:
    """Refuses a region that cuts what another has cut: nothing prices the seams.

    JAX makes regions inside others for ``axis_index`` too, which cut nothing.
    """
    parent = region.parent
    while parent is not None and parent.operation.name != "func.func":
        if parent.operation.name == MANUAL:
            raise ProgramError(
                "the program has a shard_map inside another",
                hint="make one shard_map over the axes of both",
            )
        parent = parent.operation.parent


def _settle_manual(region: ir.Operation, meshes: Mapping[str, Mesh]) -> list[Stated]:
    """Closes a region's shardings; drops those inside, which leave it as it is."""
    stated = []
    for name in ("in_shardings", "out_shardings"):
        closed = [each.closed() for each in per_value(region.attributes[name], meshes)]
        stated += closed
        region.attributes[name] = sdy.TensorShardingPerValueAttr.get(
            [each.attribute() for each in closed]
        )
    for op in find_ops(region.opview, {CONSTRAINT}):
        op.results[0].replace_all_uses_with(op.operands[0])
        op.erase()
    for op in find_ops(region.opview, COLLECTIVES.keys()):
        settle_collective(op, meshes)
    return stated


def _state_signature(main: func.FuncOp) -> None:
    """Follows each result that has a sharding with a constraint."""
    block = main.body.blocks[0]
    terminator = block.operations[len(block.operations) - 1].operation
    for position, attributes in enumerate(_dicts(main, "res_attrs")):
        if SHARDING in attributes:
            value = terminator.operands[position]
            with ir.InsertionPoint(terminator), terminator.location:
                terminator.operands[position] = _constrain(value, attributes[SHARDING])


def _state_op_shardings(main: func.FuncOp) -> None:
    """Follows each op that has shardings on its results with constraints."""
    found: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if SHARDING in op.operation.attributes:
            found.append(op.operation)
        inside = op.operation.name == MANUAL
        return ir.WalkResult.SKIP if inside else ir.WalkResult.ADVANCE

    main.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    for op in found:
        if not isinstance(op.attributes[SHARDING], sdy.TensorShardingPerValueAttr):
            continue
        shardings = sdy.TensorShardingPerValueAttr(op.attributes[SHARDING]).shardings
        with ir.InsertionPoint.after(op), op.location:
            for result, sharding in zip(op.results, shardings, strict=True):
                made = sdy.ShardingConstraintOp(result, sharding)
                result.replace_all_uses_except(made.result, [made.operation])


def _constrain(value: AnyValue, sharding: ir.Attribute) -> AnyValue:
    made: AnyValue = sdy.ShardingConstraintOp(value, sharding).result
    return made


def _dicts(main: func.FuncOp, name: str) -> Iterator[ir.DictAttr]:
    if name in main.attributes:
        yield from map(ir.DictAttr, ir.ArrayAttr(main.attributes[name]))


def _settle_arguments(main: func.FuncOp, meshes: Mapping[str, Mesh]) -> list[Stated]:
    """Leaves of the arguments' attributes the shardings that say something."""
    kept: list[Stated | None] = []
    for attributes in _dicts(main, "arg_attrs"):
        found = None
        if SHARDING in attributes:
            found = read_sharding(attributes[SHARDING], meshes)
        kept.append(found if found and found.dims and found.says_something else None)
    for name in ("arg_attrs", "res_attrs"):
        if name in main.attributes:
            del main.attributes[name]
    stated = [each for each in kept if each]
    if stated:
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(
            [ir.DictAttr.get({SHARDING: s.attribute()} if s else {}) for s in kept]
        )
    return stated


def argument_shardings(
    main: func.FuncOp, meshes: Mapping[str, Mesh]
) -> list[Stated | None]:
    """What is stated of each argument; empty if nothing is."""
    return [
        read_sharding(each[SHARDING], meshes) if SHARDING in each else None
        for each in _dicts(main, "arg_attrs")
    ]


def _keep_one_mesh(module: ir.Module, meshes: set[Mesh]) -> None:
    if len(meshes) > 1:
        names = " and ".join(sorted(str(mesh) for mesh in meshes))
        raise ProgramError(
            f"the program states shardings on different meshes: {names}",
            hint="use one mesh in the whole program",
        )
    for op in list(module.body.operations):
        if op.operation.name == MESH:
            op.operation.erase()
    for mesh in meshes:
        with ir.InsertionPoint.at_block_begin(module.body), ir.Location.unknown():
            sdy.MeshOp(MESH_NAME, mesh_attribute(mesh))


def drop_unused_mesh(module: ir.Module, main: func.FuncOp) -> None:
    """Erases the mesh if what was stated on it is gone."""
    found = [op for op in module.body.operations if op.operation.name == MESH]
    if not found or "arg_attrs" in main.attributes:
        return
    if not find_ops(main, {CONSTRAINT, MANUAL}):
        for op in found:
            op.operation.erase()


def mesh_attribute(mesh: Mesh) -> ir.Attribute:
    """``#sdy.mesh<["x"=2, "y"=4]>`` in the current context."""
    return sdy.MeshAttr.get(
        [sdy.MeshAxisAttr.get(name, size) for name, size in mesh.axes]
    )
