"""Storage: where bytes come from, local files and objects in a store alike."""

from __future__ import annotations

from dalipipe.storage.base import Storage
from dalipipe.storage.local import FileInfo
from dalipipe.storage.patterns import expand
from dalipipe.storage.remote import is_remote
from dalipipe.storage.retry import Retry, wait, wanted_while

__all__ = ["FileInfo", "Retry", "Storage", "expand", "is_remote", "wait", "wanted_while"]
