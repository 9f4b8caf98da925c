# The compiled extension, whose only caller is dalipipe.native; that module holds the signatures.
from typing import Any

def __getattr__(name: str) -> Any: ...
