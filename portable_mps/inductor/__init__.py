"""torch.compile: Inductor's code generator for Slang.

Inductor traces, decomposes, fuses and plans memory; here what it asks of a backend is: the text of a kernel
(`kernel`, from the operators of `overrides` and the index expressions of `printer`), its place in the wrapper
(`scheduling`), and its launch (`launch`). compatibility/inductor.py puts it in the place of Inductor's own backend for
Metal.
"""
