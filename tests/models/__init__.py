"""The architectures of transformers, small and with random weights, on the device and on the CPU: `make models`."""
