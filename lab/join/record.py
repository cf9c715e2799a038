"""The file by which a host remembers of which cluster it is a member."""

from pathlib import Path

import msgspec

from hostkit.files import remove, write_atomic
from lab.errors import LabError
from lab.join.model import RECORD_FILE, Record


def load(path: Path = Path(RECORD_FILE)) -> Record | None:
    """The record, None when the host is no member; raises LabError for a file that is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise LabError(f"{path} is damaged ({error}): 'barenode reset', and begin again") from error


def save(record: Record, path: Path = Path(RECORD_FILE)) -> None:
    """Write *record* so that it survives a power failure; raises LabError."""
    document = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    try:
        write_atomic(path, document, sync=True)
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror or error}") from error


def clear(path: Path = Path(RECORD_FILE)) -> bool:
    """Remove the record, and its folder when nothing else is in it; whether there was one."""
    gone = remove(path)
    try:
        path.parent.rmdir()
    except OSError:
        return gone
    return gone
