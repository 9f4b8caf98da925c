"""What went wrong with a request, as what a local file would have raised."""

from __future__ import annotations

import errno
import re


def cause_of(error: BaseException) -> str:
    """What a message says, without addresses, documents and the dump of obstore's structures behind it."""
    text = str(error)
    if found := re.search(r"returned non-2xx status code: ([^:\n]*)", text):
        inner = re.search(r"<Message>(.*?)</Message>", text) or re.search(r'"message": *"(.*?)"', text)
        cause = f"HTTP {found[1]}"
    else:
        inner = re.search(r'message: "(.*?)"', text) or re.search(r"\b(TimedOut|IncompleteBody|BadScheme)\b", text)
        cause = text.partition("\n\nDebug source")[0].replace("\n", " ")[:400]
    if inner:
        cause += f": {inner[1]}"
    if "169.254.169.254" in text:  # where credentials are asked for when there are none
        cause += "; no credentials were found: set them, or skip_signature for what is public, in Storage's options"
    return cause


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a message tells."""
    found = re.search(r"returned non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def as_os_error(error: Exception, url: str) -> OSError:
    """An error of obstore, or of ours, as what a local file would have raised; `is_transient` of it decides."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return OSError(_errno(error), cause_of(error), url)


_ERRNO_OF_CLASS = {
    "FileNotFoundError": errno.ENOENT,
    "PermissionDeniedError": errno.EACCES,
    "UnauthenticatedError": errno.EACCES,
    "ValueError": errno.EINVAL,
    "InvalidPathError": errno.EINVAL,
    "NotSupportedError": errno.EOPNOTSUPP,
}
_ERRNO_OF_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}
_ERRNO_OF_WORD = {
    "kind: Timeout": errno.ETIMEDOUT,
    "kind: ConnectionReset": errno.ECONNRESET,
    "kind: ConnectionRefused": errno.ECONNREFUSED,
    "NotPartial": errno.EOPNOTSUPP,
    "BareRedirect": errno.EPROTO,
    "BadScheme": errno.EPROTO,
}


def _errno(error: Exception) -> int:
    """What is not known counts as EIO, which is tried again."""
    if (known := _ERRNO_OF_CLASS.get(type(error).__name__)) is not None:
        return known
    status = status_of(error)
    if status is not None:
        transient = status >= 500 or status in (408, 425, 429)
        return errno.EIO if transient else _ERRNO_OF_STATUS.get(status, errno.EPROTO)
    text = str(error)
    return next((code for word, code in _ERRNO_OF_WORD.items() if word in text), errno.EIO)
