"""Files that users rely on: written atomically, locked, with checksums, never pickles."""

from __future__ import annotations

from zoracle.storage.files import read_json, read_tensors, write_json, write_tensors, write_text
from zoracle.storage.fingerprint import config_hash, ids_hash, optimizer_config, release_series
from zoracle.storage.hashing import file_hash
from zoracle.storage.runfolder import VERSIONS, RunFolder, locked, open_run, write_npz

__all__ = [
    "VERSIONS",
    "RunFolder",
    "config_hash",
    "file_hash",
    "ids_hash",
    "locked",
    "open_run",
    "optimizer_config",
    "read_json",
    "read_tensors",
    "release_series",
    "write_json",
    "write_npz",
    "write_tensors",
    "write_text",
]
