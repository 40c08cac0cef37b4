"""What runs beside a collective, read from scheduled text."""

from tepdist.lowering.overlap import Overlap, overlap_by_kind

SCHEDULED = """\
HloModule step, is_scheduled=true

ENTRY %main (p: f32[256]) -> f32[1024] {
  %p = f32[256]{0} parameter(0)
  %gather = (f32[256]{0}, f32[1024]{0}) all-gather-start(%p), dimensions={0}
  %renamed = f32[16,16]{1,0} bitcast(%p)
  %gathered = f32[1024]{0} all-gather-done(%gather)
  %reduce = f32[1024]{0} all-reduce-start(%gathered), to_apply=%add
  %work = f32[256]{0} fusion(%p), kind=kLoop, calls=%squares
  %reduced = f32[1024]{0} all-reduce-done(%reduce)
  ROOT %whole = f32[1024]{0} all-reduce(%reduced), to_apply=%add
}
"""


def test_only_what_a_kernel_runs_beside_is_hidden() -> None:
    assert overlap_by_kind(SCHEDULED) == {
        "all_gather": Overlap(hidden=0, exposed=4096),
        "all_reduce": Overlap(hidden=4096, exposed=4096),
    }


def test_a_text_without_collectives_has_no_overlap() -> None:
    assert overlap_by_kind("ENTRY %main () -> f32[] {\n}\n") == {}
