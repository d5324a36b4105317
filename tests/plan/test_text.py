"""Short compiled texts, written by hand, whose costs are known on paper."""

import pytest

from minivim_lab.plan.hlo import Traffic, costs
from minivim_lab.plan.text import Array, parse, sources

COUNTED = """
HloModule counted, is_scheduled=true

%inner_body (s: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%s), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %w = f32[8,8]{1,0} constant({...})
  %dot.1 = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%next, %dot.1)
}

%inner_cond (s: (s32[], f32[4,8])) -> pred[] {
  %s.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %n = s32[] constant(5)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

%outer_body (s.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %s.3 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%s.3), index=0
  %x.1 = f32[4,8]{1,0} get-tuple-element(%s.3), index=1
  %zero = s32[] constant(START)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %x.1)
  %while.1 = (s32[], f32[4,8]{1,0}) while(%start), condition=%inner_cond, body=%inner_body
  %x.2 = f32[4,8]{1,0} get-tuple-element(%while.1), index=1
  ROOT %t.1 = (s32[], f32[4,8]{1,0}) tuple(%i.2, %x.2)
}

%outer_cond (s.4: (s32[], f32[4,8])) -> pred[] {
  %s.5 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %c = pred[] custom-call(%s.5), custom_call_target="something"
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %z = s32[] constant(0)
  %start.1 = (s32[], f32[4,8]{1,0}) tuple(%z, %p)
  %while.2 = (s32[], /*index=1*/f32[4,8]{1,0}) while(%start.1), condition=%outer_cond, body=%outer_body NOTE
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%while.2), index=1
}
"""  # noqa: E501
NOTE = ', backend_config={"known_trip_count":{"n":"3"},"other":[]}'
DOT = 2 * 4 * 8 * 8


def counted(*, start: int = 0, note: str = NOTE) -> str:
    return COUNTED.replace("START", str(start)).replace(" NOTE", note)


@pytest.mark.parametrize(("start", "trips"), [(0, 5), (2, 3), (9, 0)])
def test_loops_in_loops_count_in_full(start, trips):
    assert costs(counted(start=start)).flops == 3 * trips * DOT


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    found = costs(counted(note=""))
    assert (found.flops, found.unknown_loops) == (5 * DOT, 1)


@pytest.mark.parametrize("order", ["LE", "NE", "GT"])
def test_other_comparisons(order):
    found = costs(counted().replace("direction=LT", f"direction={order}"))
    trips = {"LE": 6, "NE": 5}.get(order, 1)
    assert found.flops == 3 * trips * DOT
    assert found.unknown_loops == (order == "GT")


def entry(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"{before}\nENTRY %main () -> f32[] {{\n{body}\n}}\n"


# Two batch axes of a product as a TPU writes them: 32 products [1024, 64] x [64, 1024].
BATCHED = (
    "ROOT %c = f32[32,1024,1024]{1,2,0:T(8,128)} convolution(%q, %k), "
    "window={size=32 stride=31 lhs_dilate=32}, dim_labels=0bf_0oi->0bf"
)


def test_a_batched_product_written_as_a_dilated_convolution():
    text = entry(
        "%q = f32[32,1024,64]{2,1,0:T(8,128)(2,1)S(3)} parameter(0)",
        "%k = f32[32,1024,64]{2,1,0} parameter(1)",
        BATCHED,
    )
    assert costs(text).flops == 2 * 32 * 1024 * 1024 * 64


def test_padding_strides_and_groups_of_a_convolution():
    text = entry(
        "%x = f32[2,6,6,4]{3,2,1,0} parameter(0)",
        "%w = f32[3,3,2,8]{3,2,1,0} parameter(1)",
        "ROOT %c = f32[2,3,3,8]{3,2,1,0} convolution(%x, %w), window={size=3x3 "
        "stride=2x2 pad=0_1x1_0}, dim_labels=b01f_01io->b01f, feature_group_count=2",
    )
    # Along an axis 3 windows of 3, of which one number lies outside.
    assert costs(text).flops == 2 * 2 * 8 * 2 * 8 * 8


FUSED = """
%fused (p0: f32[36,512], p1: s32[], p2: f32[9,512]) -> f32[9,512] {
  %p0 = f32[36,512]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[9,512]{1,0} parameter(2)
  %z = s32[] constant(0)
  %part = f32[1,512]{1,0} dynamic-slice(%p0, %p1, %z), dynamic_slice_sizes={1,512}
  ROOT %u = f32[9,512]{1,0} dynamic-update-slice(%p2, %part, %p1, %z)
}
"""


def test_a_fusion_that_slices_and_updates_moves_the_slices():
    text = entry(
        "%a = f32[36,512]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%b = f32[9,512]{1,0} parameter(2)",
        "ROOT %f = f32[9,512]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%fused",
        before=FUSED,
    )
    assert costs(text).hbm_bytes == 2 * 4 * 512 + 4


# The same one level down, and an array that is read whole under another shape.
NESTED = """
%nested (q0: f32[36,512], q1: s32[], q2: f32[9,512]) -> f32[9,512] {
  %q0 = f32[36,512]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = f32[9,512]{1,0} parameter(2)
  ROOT %inner = f32[9,512]{1,0} fusion(%q0, %q1, %q2), kind=kLoop, calls=%fused
}
%view (r: f32[64]) -> f32[8,8] {
  %r = f32[64]{0} parameter(0)
  ROOT %seen = f32[8,8]{1,0} bitcast(%r)
}
%whole (t: f32[64]) -> f32[8,8] {
  %t = f32[64]{0} parameter(0)
  %square = f32[8,8]{1,0} fusion(%t), kind=kLoop, calls=%view
  ROOT %n = f32[8,8]{1,0} negate(%square)
}
"""


def test_a_fusion_within_a_fusion_moves_what_it_slices_and_updates():
    text = entry(
        "%a = f32[36,512]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%b = f32[9,512]{1,0} parameter(2)",
        "%c = f32[64]{0} parameter(3)",
        "%g = f32[8,8]{1,0} fusion(%c), kind=kLoop, calls=%whole",
        "ROOT %f = f32[9,512]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%nested",
        before=FUSED + NESTED,
    )
    assert costs(text).hbm_bytes == 2 * 4 * 512 + 4 + 2 * 256


def test_other_memories_are_not_hbm():
    lines = (
        "%a = f32[1024]{0} parameter(0)",
        "%s = (f32[1024]{0:S(3)}, f32[1024]{0}, u32[]{:S(2)}) copy-start(%a)",
        "%d = f32[1024]{0:S(3)} copy-done(%s)",
        "ROOT %n = f32[1024]{0:S(3)} negate(%d)",
    )
    assert costs(entry(*lines)).hbm_bytes == 4096
    assert costs(entry(*lines).replace("S(3)", "T(8)")).hbm_bytes == 4 * 4096


def test_collectives_once_by_kind():
    text = entry(
        "%a = f32[64]{0} parameter(0)",
        "%b = bf16[8]{0} parameter(1)",
        "%s = (bf16[8]{0}, bf16[32]{0}) all-gather-start(%b), "
        "replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}",
        "%g = bf16[32]{0} all-gather-done(%s)",
        "%r = f32[64]{0} all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add",
        "%h = f32[16]{0} reduce-scatter(%a), replica_groups=mesh['x'=2,'y'=4] {'y'}, "
        "dimensions={0}, to_apply=%add",
        "ROOT %p = f32[64]{0} collective-permute(%a), "
        "source_target_pairs={{0,1},{1,0}}",
    )
    assert costs(text).collectives == {
        "all-gather": Traffic(count=1, bytes=64, wire=48.0),
        "all-reduce": Traffic(count=1, bytes=256, wire=448.0),
        "reduce-scatter": Traffic(count=1, bytes=256, wire=192.0),
        "collective-permute": Traffic(count=1, bytes=256, wire=256.0),
    }


PLACED = """
%placed (p0: f32[64], p1: f32[8], p2: s32[]) -> f32[64] {
  %p0 = f32[64]{0} parameter(0)
  %p1 = f32[8]{0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[64]{0} dynamic-update-slice(%p0, %p1, %p2)
}
"""


@pytest.mark.parametrize(("filler", "kind"), [("0", "all-gather"), ("1", "all-reduce")])
def test_an_all_reduce_of_parts_among_zeros_is_a_gather(filler, kind):
    text = entry(
        f"%z = f32[] constant({filler})",
        "%zeros = f32[64]{0} broadcast(%z), dimensions={}",
        "%part = f32[8]{0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%f = f32[64]{0} fusion(%zeros, %part, %i), kind=kLoop, calls=%placed",
        "ROOT %r = bf16[64]{0} all-reduce(%f), replica_groups=mesh['a'=4,'b'=8] "
        "{'a','b':(2)4}, to_apply=%add",
        before=PLACED,
    )
    # In bfloat16, over 16 chips, and as an all-reduce sends it.
    found = {kind: Traffic(count=1, bytes=128, wire=2 * 128 * 15 / 16)}
    assert costs(text).collectives == found


def test_of_a_condition_the_largest_branch():
    branch = """
%NAME (p: f32[4,8]) -> f32[4,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %d = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}
}
"""
    other = branch.replace("dot(%p, %p)", "custom-call(%p)")
    text = entry(
        "%i = s32[] parameter(0)",
        "%p = f32[4,8]{1,0} parameter(1)",
        "ROOT %c = f32[4,4]{1,0} conditional(%i, %p, %p), "
        "branch_computations={%small, %large}",
        before=other.replace("NAME", "small") + branch.replace("NAME", "large"),
    )
    assert costs(text).flops == 2 * 4 * 4 * 8


# One of JAX's kernels as the TPU's compiler writes it, over several lines, in a loop of
# three: 2 x 8 heads of 1,024 tokens by 64. The tables of lines stand before everything.
KERNEL = """HloModule kernel, is_scheduled=true

FileNames
1 "/here/minivim/transformer.py"
2 "/lib/python3/site-packages/jax/splash.py"
3 "/here/minivim/fast.py"

FunctionNames
1 "attention"

FileLocations
1 {file_name_id=1 function_name_id=1 line=77 end_line=77 column=4 end_column=9}
2 {file_name_id=2 function_name_id=1 line=1111 end_line=1119 column=4 end_column=9}
3 {file_name_id=3 function_name_id=1 line=5 end_line=5 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=3 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=3}
4 {file_location_id=3 parent_frame_id=3}
5 {file_location_id=2 parent_frame_id=1}

%body (s: (s32[], QKV)) -> (s32[], QKV) {
  %s = (s32[], QKV) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = QKV get-tuple-element(%s), index=1
  %bits = s8[1,2,1]{2,1,0} constant({...})
  %NAME.7 = (MADE) custom-call(%bits, %x, %x, /*index=3*/%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"q_layout\\": 1}"
}}, metadata={op_name="jit(f)/while/body/pallas_call" stack_frame_id=3}, backend_config={"flag_configs":[]}
  %y = QKV get-tuple-element(%NAME.7), index=0, frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}
  ROOT %t = (s32[], QKV) tuple(%i, %y)
}

%condition (s.1: (s32[], QKV)) -> pred[] {
  %s.1 = (s32[], QKV) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %n = s32[] constant(3)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (p: QKV) -> QKV {
  %p = QKV parameter(0)
  %z = s32[] constant(0)
  %start = (s32[], QKV) tuple(%z, %p)
  %while = (s32[], QKV) while(%start), condition=%condition, body=%body
  ROOT %out = QKV get-tuple-element(%while), index=1
}
"""  # noqa: E501
QKV = "f32[2,8,1024,64]{3,2,1,0:T(8,128)}"
TURNED = "f32[2,8,64,1024]{3,2,1,0:T(8,128)}"
EACH = 4 * 2 * 8 * 1024 * 64


@pytest.mark.parametrize(
    ("name", "made", "products", "written"),
    [
        ("splash_mha_fwd_no_residuals", (QKV, "f32[2,8,8]{2,1,0}"), 2, EACH + 512),
        ("splash_mha_dq_no_residuals", (QKV, "f32[2,8,64]{2,1,0}"), 3, EACH + 4096),
        ("splash_mha_dkv_no_residuals", (QKV, QKV), 4, 2 * EACH),
        ("splash_mha_dkv_no_residuals", (QKV, QKV, "f32[2,1,8,1024,64]"), 5, 3 * EACH),
        ("another", (QKV,), None, EACH),
    ],
)
def test_a_kernel_counts_by_its_shapes_in_every_turn(name, made, products, written):
    text = KERNEL.replace("NAME", name).replace("MADE", ", ".join(made))
    found = costs(text.replace("QKV", QKV))
    assert costs(text.replace("QKV", TURNED)).flops == found.flops
    assert found.flops == 3 * (products or 0) * 2 * 2 * 8 * 1024 * 1024 * 64
    assert (found.unknown_loops, found.unknown_kernels) == (0, products is None)
    place = "custom-call at minivim/fast.py:5 for minivim/transformer.py:77"
    kernel = {place: 3 * (2 + 3 * EACH + written)}
    assert found.places == kernel | {"compare at no line": 3 * 9}
    assert found.hbm_bytes == sum(found.places.values())


def test_lines_are_our_own_or_nothing():
    in_fast = "minivim/fast.py:5 for minivim/transformer.py:77"
    found = {"1": "minivim/transformer.py:77", "2": in_fast, "3": in_fast, "4": in_fast}
    assert sources(KERNEL) == found | {"5": ""}
    assert sources(COUNTED) == {}


def test_shapes_are_read_with_their_layouts():
    text = entry(
        "ROOT %x = ((bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s4[6]), pred[], token[]) "
        'custom-call(), custom_call_target="f"'
    )
    last = parse(text).last
    assert last.shape[:3] == (
        Array("bf16", (2, 3), 1),
        Array("s4", (6,)),
        Array("pred", ()),
    )
    assert [a.bytes for a in last.shape] == [12, 3, 1, 0]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no text of a compiled module"):
        parse("HloModule nothing")
