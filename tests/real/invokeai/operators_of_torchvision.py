"""Importing this makes torchvision importable: a CPU's torch stands beside PyPI's torchvision, whose compiled part does
not load then. The two operators whose Python half is registered all the same are declared; nothing calls them.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
