"""Checkpoints of hypernetworks: released ones and ours, from files, the Hugging Face hub or an MLflow registry."""

from ghn.checkpoint.files import WEIGHTS_FILE, load_checkpoint, save_checkpoint
from ghn.checkpoint.sources import from_pretrained

__all__ = ["WEIGHTS_FILE", "from_pretrained", "load_checkpoint", "save_checkpoint"]
