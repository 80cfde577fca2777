"""The device: adapter, memory, stream, kernels. Nothing here is imported until the device is used."""
