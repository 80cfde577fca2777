"""Elementwise operators of one tensor."""
from portable_mps.dispatch.pointwise import Pointwise, register
register(Pointwise("add", ("a + s0 * b",), 2, "c"), "add.out")
register(Pointwise("mul", ("a * b",), 2), "mul.out")
