"""Between torch's dispatcher and the kernels: registration, promotion, and the generic launchers."""
