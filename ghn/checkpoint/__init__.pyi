from .conversion import convert, describe
from .files import WEIGHTS_FILE, load_checkpoint, save_checkpoint
from .sources import from_pretrained

__all__ = [
    "WEIGHTS_FILE",
    "convert",
    "describe",
    "from_pretrained",
    "load_checkpoint",
    "save_checkpoint",
]
