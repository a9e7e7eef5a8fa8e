"""placeholder until the real module lands"""
from __future__ import annotations
class Augmentation:
    def __init__(self, settings): self.s=settings
    def __call__(self, images, generator): return images
