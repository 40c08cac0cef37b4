"""Linear and mixed-integer programs by HiGHS; the only file that knows highspy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tepdist.solver.problem import Array, Indices

if TYPE_CHECKING:
    import highspy

_GAP = 1e-6  # relative gap at which an answer counts as best


@dataclass(frozen=True, slots=True)
class Program:
    """Minimize costs times columns, within bounds, rows between bounds.

    Attributes:
        costs: Of each column, [columns].
        upper: Most a column may be; the least is in `lower`, [columns].
        lower: [columns].
        integral: Whether a column takes whole numbers only, [columns].
        row_lower: [rows].
        row_upper: [rows].
        entries: Row, column and coefficient of each entry that is not 0.
        constant: Added to the objective.
    """

    costs: Array
    upper: Array
    lower: Array
    integral: "np.ndarray"
    row_lower: Array
    row_upper: Array
    entries: tuple[Indices, Indices, Array]
    constant: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What HiGHS found.

    Attributes:
        columns: Value of each column; None if no feasible one was found.
        lower_bound: No solution has a lower objective; infinite if there is none.
        is_complete: Whether the columns are best, or it is proven that there are none.
    """

    columns: Array | None
    lower_bound: float
    is_complete: bool


def solve(
    program: Program,
    *,
    time_limit_s: float,
    start: Array | None = None,
    gap: float = _GAP,
    seed: int = 0,
    is_exact: bool = False,
) -> Outcome:
    """The best columns of a program, or the best so far when time is up.

    Args:
        program: What to solve.
        time_limit_s: After which the search stops [s].
        start: A feasible solution to improve on: its first columns, among them all
            that take whole numbers.
        gap: Relative gap to the bound at which an answer will do.
        seed: Of what HiGHS draws at random.
        is_exact: Whether bounds and optima must be right: without presolve, which in
            1.15.1 cut off the optimum of 1 in 2,500 random programs.
    """
    import highspy  # takes 0.1 s: only large problems need it

    solver = highspy.Highs()
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("time_limit", max(time_limit_s, 0.01)),
        ("mip_rel_gap", gap),
        ("random_seed", seed),
        ("presolve", "off" if is_exact else "choose"),
    ):
        solver.setOptionValue(name, value)
    solver.passModel(_model(program))
    if start is not None:
        places = np.arange(len(start), dtype=np.int32)
        solver.setSolution(len(start), places, start)
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return Outcome(None, np.inf, is_complete=True)
    found = solver.getInfo()
    is_complete = status == highspy.HighsModelStatus.kOptimal
    is_feasible = (
        found.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    )
    columns = np.array(solver.getSolution().col_value) if is_feasible else None
    if program.integral.any():
        bound = found.mip_dual_bound
    else:
        bound = found.objective_function_value if is_complete else -np.inf
    return Outcome(columns, bound, is_complete)


def _model(program: Program) -> "highspy.HighsLp":
    import highspy

    rows, columns, values = program.entries
    count, num_rows = len(program.costs), len(program.row_lower)
    order = np.lexsort((rows, columns))
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, num_rows
    model.col_cost_ = program.costs
    model.col_lower_, model.col_upper_ = program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.offset_ = program.constant
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kColwise
    matrix.start_ = np.searchsorted(columns[order], np.arange(count + 1))
    matrix.index_, matrix.value_ = rows[order], values[order]
    if program.integral.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(whole)] for whole in program.integral]
    return model
