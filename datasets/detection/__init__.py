"""Detection data: Penn-Fudan pedestrians."""

from datasets.detection.pennfudan import PERSON, DetectionImages, load_pennfudan

__all__ = ["PERSON", "DetectionImages", "load_pennfudan"]
