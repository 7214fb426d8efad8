"""Hypernetworks on the Hugging Face hub: `from_pretrained`, `save_pretrained`, `push_to_hub`.

A repository holds our file of weights, safetensors with the configuration in its header, the
configuration once more as `config.json`, for the hub, and a model card. Nothing in it is code, and
no pickle is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ghn.errors import (
    DamagedFileError,
    MissingDependencyError,
    UnreachableError,
    UnsupportedFormatError,
)
from ghn.files import atomic_path, read_safetensors
from ghn.models.card import card_text
from ghn.models.config import GHNConfig
from ghn.models.storage import HEADER, WEIGHTS_FILE, described, filled, write_weights

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelHubMixin
else:
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError:

        class ModelHubMixin:
            """Stands for the mixin where huggingface_hub is not installed."""

            def __init_subclass__(cls, **_: Any) -> None:
                super().__init_subclass__()

            @classmethod
            def from_pretrained(cls, source: str, **_: Any) -> Self:
                """Refuses."""
                raise MissingDependencyError(_MISSING.format(source))

            def save_pretrained(self, directory: str, **_: Any) -> None:
                """Refuses."""
                raise MissingDependencyError(_MISSING.format(directory))

            def push_to_hub(self, repository: str, **_: Any) -> None:
                """Refuses."""
                raise MissingDependencyError(_MISSING.format(repository))


_MISSING = "{}: the Hugging Face hub needs huggingface_hub: pip install huggingface_hub"


class Hub(ModelHubMixin, library_name="ghn3-pipeline", tags=["graph-hypernetwork", "ghn-3"]):
    """What a hypernetwork has of the hub. `save_pretrained` and `push_to_hub` are the mixin's, and
    so are their arguments.
    """

    config: GHNConfig
    metadata: dict[str, Any]

    @classmethod
    def empty(cls, config: GHNConfig) -> Self:
        """One on the meta device."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> Self:
        """A hypernetwork of the hub, in evaluation mode, on the CPU.

        Args:
            source: `user/name` of a repository, or a directory that `save_pretrained` has written.
            revision: a branch, a tag or a commit; by default the latest.
            token: for private repositories; by default the one that `hf auth login` has stored.
            local_files_only: whether to take only what was downloaded before.
            cache_dir: where downloads are kept; by default as huggingface_hub has it.
            force_download: whether to download again.

        Raises:
            MissingDependencyError: huggingface_hub is not installed.
            UnreachableError: there is no such repository, or it cannot be reached.
            UnsupportedFormatError: it holds no hypernetwork in our format (for released files of
                the paper see `ghn.from_pretrained`).
            DamagedFileError: its file is not what was written.
        """
        options: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "local_files_only": local_files_only,
            "cache_dir": cache_dir,
            "force_download": force_download,
        }
        try:
            return super().from_pretrained(os.fspath(source), **options)
        except json.JSONDecodeError as error:
            raise DamagedFileError(f"{source}: its config.json is not JSON ({error})") from error
        except (OSError, ValueError) as error:  # those of the hub are either
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
            raise UnreachableError(
                f"{source} could not be had from the Hugging Face hub ({said}); if this machine is"
                " offline, download the repository elsewhere and pass its directory"
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        from huggingface_hub import hf_hub_download

        names = ("revision", "token", "local_files_only", "cache_dir", "force_download")
        wanted = {name: options[name] for name in names}
        path = Path(model_id, WEIGHTS_FILE)
        if not Path(model_id).is_dir():
            path = Path(hf_hub_download(model_id, WEIGHTS_FILE, **wanted))
        elif not path.is_file():
            raise UnsupportedFormatError(f"{model_id} holds no {WEIGHTS_FILE}")
        state, header = read_safetensors(path)
        if HEADER not in header:
            raise UnsupportedFormatError(
                f"{path} is not in our format; ghn.from_pretrained reads released files"
            )
        config, metadata = described(path, state, header)
        ghn = filled(cls.empty(config), config, path, state)  # type: ignore[type-var]
        ghn.metadata = {"source": model_id} | metadata
        return ghn

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes the weights and `config.json`; equal hypernetworks give equal bytes."""
        state = self.state_dict()  # type: ignore[attr-defined]
        metadata = {key: value for key, value in self.metadata.items() if key != "source"}
        write_weights(state, self.config, Path(save_directory, WEIGHTS_FILE), metadata)
        with atomic_path(Path(save_directory, "config.json")) as temporary:
            text = json.dumps(self.config.to_dict(), sort_keys=True, indent=2)
            temporary.write_text(text + "\n")

    def generate_model_card(self, *_: Any, **fields: Any) -> ModelCard:
        """The card: what the hypernetwork is, what it was trained on, what it is known to do.

        Args:
            fields: of the card's data, such as `license` or `datasets`; they are the
                `model_card_kwargs` of `save_pretrained` and `push_to_hub`.
        """
        from huggingface_hub import ModelCard, ModelCardData

        known = self._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]
        data = ModelCardData(**(known | fields))
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(self.config, self.metadata)}")
