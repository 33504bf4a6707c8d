"""The text of compiled programs is read as compilers print it."""

from __future__ import annotations

from alexatm_jax.hlo import array_shape, read_program

KERNEL = """HloModule jit_step, num_partitions=4

ENTRY %main (x: f32[8,2]) -> f32[8,2] {
  %x = f32[8,2] parameter(0)
  %kernel = (f32[8,2], u32[]) custom-call(%x), custom_call_target="tpu_custom_call", metadata={
"block": "{\\"rows\\": 512}"
}}, metadata={op_name="jit(step)/attention"}
  ROOT %result = f32[8,2] get-tuple-element(%kernel), index=0
}
"""


def test_an_instruction_may_take_several_lines():
    """Pallas kernels of TPUs are described so, up to a line that starts like a program's end."""
    program = read_program(KERNEL)
    main = program.computations[program.entry]
    assert (program.name, program.num_devices, main.root) == ("jit_step", 4, "result")
    assert list(main.instructions) == ["x", "kernel", "result"]
    kernel = main.instructions["kernel"]
    assert kernel.operands == ("x",) and "jit(step)/attention" in kernel.attributes
    assert array_shape(kernel.shape) == (8, 2)


def test_a_shape_without_an_array_has_no_sizes():
    assert array_shape("token[]") == array_shape("()") == ()
