"""Training: the loop, the step, the optimizer, the devices, the memory estimate."""
