"""The Hub: a model's folder uploaded to it, and a model fetched from it."""

from __future__ import annotations

from pathlib import Path

from avrt.errors import AvrtError
from avrt.packaged import packaged_models
from avrt.text import did_you_mean


def files_of(folder: Path) -> list[Path]:
    """The files of an exported model, hidden ones left out.

    Raises:
        AvrtError: If the folder holds no model.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise AvrtError(
            "holds no exported model", where=folder, remedy="make one: avrt export --ckpt_path RUN --out FOLDER"
        )
    shown = (p for p in sorted(folder.rglob("*")) if not any(x.startswith(".") for x in p.relative_to(folder).parts))
    return [path for path in shown if path.is_file()]


def push_folder(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload an exported model in one commit.

    Args:
        folder: The model's folder.
        name: Where to: `user/name`; made if it is not there.
        private: Make it private, if it is new.

    Returns:
        The model's address.

    Raises:
        AvrtError: If the folder holds no model, or the Hub refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    files = [str(path.relative_to(folder)) for path in files_of(folder)]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files, commit_message="Upload by avrt push")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise AvrtError(
            f"cannot be uploaded: {_first_line(error)}", where=name, remedy="log in with: hf auth login"
        ) from None
    return str(address)


def fetch(name: str) -> Path:
    """The folder of a model on the Hub, copied to the cache where it is not there yet.

    Raises:
        AvrtError: If it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise AvrtError(
            f"is neither a folder nor a model that the Hub gives: {_first_line(error)}",
            where=name,
            remedy=did_you_mean(name, packaged_models()) or "check the name",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
