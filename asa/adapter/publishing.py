"""Publishing: an adapter with its model card, in a folder or on the Hugging Face hub."""

import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from asa.adapter.decision import AdapterError
from asa.support.files import write_together
from asa.support.hub import hub_sentence, said_by


class Published(ABC):
    """What can be saved with a model card and put on the hub.

    Attributes:
        config: What the card is written from.
    """

    config: dict[str, Any]

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write its files into `folder`."""

    def save_pretrained(self, folder: str | Path, source: str = "") -> None:
        """As `save`, with a model card that says how to load it from `source`, or else from this folder.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        from asa.adapter.model_card import model_card  # the hub's library is slow to load

        self.save(folder)
        text = str(model_card(self.config, source or str(folder)))
        write_together({Path(os.path.expanduser(folder), "README.md"): lambda at: at.write_text(text, "utf-8")})

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | bool | None = None) -> str:
        """Put it and its model card on the hub, into a repository that is made where there is none.

        Args:
            repo_id: As `owner/name`.
            private: Whether a repository that is made is private.
            token: Of a user who may write it; None: the one who is logged in.

        Returns:
            The address of its page.

        Raises:
            AdapterError: The hub does not take it.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message="Add an activation-steering adapter"
                )
            except Exception as error:
                said = hub_sentence(repo_id, error, done="pushed")
                raise AdapterError(said or f"{repo_id} cannot be pushed ({said_by(error)}).") from error
        return f"{api.endpoint}/{repo_id}"
