from .files import WEIGHTS_FILE, load_checkpoint, save_checkpoint
from .sources import from_pretrained

__all__ = [
    "WEIGHTS_FILE",
    "from_pretrained",
    "load_checkpoint",
    "save_checkpoint",
]
