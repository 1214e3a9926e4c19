# SPDX-License-Identifier: Apache-2.0
"""Import every pinned package, for arm_check.py to run under an emulated Python; print versions.

Fails at an instruction that the processor lacks, or if torch was built for CUDA. The Makefile's steps, which
arm_check.py runs next, use the packages.
"""

import platform

import cv2
import fontTools
import matplotlib
import numpy
import onnx
import onnxruntime
import onnxscript
import PIL
import torch
import torchvision

assert platform.machine() == "aarch64", platform.machine()
assert torch.version.cuda is None, f"torch is built for CUDA {torch.version.cuda}"
modules = (torch, torchvision, onnx, onnxruntime, onnxscript, numpy, cv2, PIL, matplotlib)
print(", ".join(f"{module.__name__} {module.__version__}" for module in modules), "and fontTools", fontTools.version)
