"""Every dispatch as Metal's text, compiled for the CPU (`make metal`)."""
