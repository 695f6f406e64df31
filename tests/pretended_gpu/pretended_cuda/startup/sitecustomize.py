"""Imported by Python as it starts (this folder is in PYTHONPATH): the first import of torch brings the pretended GPU.

A process that does not import torch (Snakemake, a shell's helpers) pays nothing.
"""

import os
import sys


class _PretendWithTorch:
    """Finder that loads the device guard before torch and replaces parts of ``torch.cuda`` after it."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                import ctypes

                ctypes.CDLL(os.environ["AQR_PRETENDED_GPU"], mode=ctypes.RTLD_GLOBAL)
                execute(module)
                from pretended_cuda import enable

                enable()

            spec.loader.exec_module = exec_module
        return spec


if os.environ.get("AQR_PRETENDED_GPU"):
    sys.meta_path.insert(0, _PretendWithTorch())
