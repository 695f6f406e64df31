"""What the pretended GPU itself has to do, by name; run_device.py does it."""

DEVICE = (
    "mixed devices are refused",
    "scalars and indices of the CPU are taken",
    "numpy is refused",
    "host waits are counted",
    "kernels are chosen as on CUDA",
    "unaligned masks and rows are refused",
    "a wrong layout in half precision is a fault",
    "autocast and the gradient scaler work",
    "modules and optimisers stay on the GPU",
    "activation checkpointing recomputes",
    "files are loaded to where they are asked to",
    "mmengine's device is the GPU",
)
