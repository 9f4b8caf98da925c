"""Objects in stores and on web servers, by byte range: many requests at a time, each tried again until it is whole.

The requests are made by `obstore`, awaited by an event loop in a thread of its own. The caller waits in short slices,
so that neither Ctrl-C nor the end of the interpreter waits for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np

from dalipipe import native
from dalipipe.storage.engine import engine, import_obstore, watched
from dalipipe.storage.errors import as_os_error, cause_of, status_of
from dalipipe.storage.local import FileInfo
from dalipipe.storage.retry import Retry, exhausted, is_transient, unwanted

T = TypeVar("T")

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
# Ranges of one object that lie this close together travel in one request, up to a size at which several requests side
# by side are faster. A sample's files in a tar shard are 512 to 1535 bytes apart.
_GAP_BYTES = 16 << 10
_SPAN_BYTES = 2 << 20
_CLIENT_OPTIONS = frozenset(
    """allow_http allow_invalid_certificates connect_timeout default_headers http1_only http2_only pool_idle_timeout
    pool_max_idle_per_host proxy_ca_certificate proxy_excludes proxy_url randomize_addresses read_timeout
    root_certificate timeout user_agent""".split()
)
_ENDPOINTS = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3")


def is_remote(path: str) -> bool:
    """Whether this is a URL (``s3://bucket/key``, ``gs://…``, ``https://…``) and no local path."""
    return "://" in path and re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


class Range(NamedTuple):
    """Bytes of an object: ``length`` of them from ``offset`` on; -1: to its end.

    ``version``: what `FileInfo` said, so that a changed object is noticed; empty: any.
    """

    url: str
    offset: int = 0
    length: int = -1
    version: str = ""


class Remote:
    """Reads, sizes and lists objects; safe to use from several threads. Not to be carried across a fork or pickled."""

    def __init__(self, options: Mapping[str, Any], retry: Retry, concurrency: int) -> None:
        self._obstore = import_obstore()
        self._options, self._retry, self._concurrency = options, retry, concurrency
        self._stores: dict[str, Any] = {}
        self._gate: asyncio.Semaphore | None = None

    def fetch(self, ranges: Sequence[Range]) -> list[np.ndarray | OSError]:
        """Each range's bytes, uint8, or why they could not be had. Raises what `_store` raises."""
        loop = engine()
        self._open(range_.url for range_ in ranges)
        try:
            return loop.run(self._fetch(ranges))
        except concurrent.futures.CancelledError:
            return [unwanted(range_.url) for range_ in ranges]

    def info(self, url: str) -> FileInfo:
        """Raises ``FileNotFoundError`` or another ``OSError``."""
        return self._one(url, lambda: self._tried(url, lambda: self._head(url)))

    def list_objects(self, url: str) -> list[FileInfo]:
        """Every object under ``url``, which ends at a ``/``, sorted. Raises ``FileNotFoundError`` for none."""
        found = self._one(url, lambda: self._list(url))
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no objects under this prefix", url)
        return found

    def _one(self, url: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = engine()
        self._open([url])
        try:
            return loop.run(work())
        except concurrent.futures.CancelledError:
            raise unwanted(url) from None

    # --- where an object is ---

    def _open(self, urls: Any) -> None:
        """Makes the stores that are not there yet, here and not in the loop, so that a wrong option is raised."""
        for url in urls:
            with contextlib.suppress(OSError):  # that of one row; it is found again there
                self._locate(url)

    def _locate(self, url: str) -> tuple[Any, str]:
        """The store that an object is in, and its key there. Raises ``OSError`` for a URL that is none."""
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES:
            raise OSError(errno.EPROTONOSUPPORT, f"no store {scheme!r} is known, only {', '.join(SCHEMES)}", url)
        root, _, key = rest.partition("/")
        if not root:
            raise OSError(errno.EINVAL, "the URL names no bucket or host", url)
        if scheme in ("http", "https"):
            if "?" in key:  # a signed URL, say: the server must see it as it is
                return self._store(url), ""
            key = unquote(key)
        return self._store(f"{scheme}://{root}"), key

    def _store(self, root: str) -> Any:
        """Raises ``ValueError`` for options that the store does not know or lacks."""
        store = self._stores.get(root)
        if store is None:
            if len(self._stores) > 1000:  # signed URLs, each of which is a store
                self._stores.clear()
            store = self._stores[root] = self._make_store(root)
        return store

    def _make_store(self, root: str) -> Any:
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore, from_url

        over_http = urlsplit(root).scheme in ("http", "https")
        config: Any = {name: value for name, value in self._options.items() if name not in _CLIENT_OPTIONS}
        client: Any = {
            # A large range may take long. What counts is that its bytes keep coming.
            "timeout": timedelta(days=1),
            "read_timeout": timedelta(seconds=self._retry.timeout_s),
            "connect_timeout": timedelta(seconds=min(self._retry.timeout_s, 10.0)),
            "allow_http": root.startswith("http://") or _endpoint(config).startswith("http://"),
            **{name: value for name, value in self._options.items() if name in _CLIENT_OPTIONS},
        }
        once: Any = {"max_retries": 0}  # retrying is `_tried`'s
        try:
            if over_http:
                return HTTPStore(root, client_options=client, retry_config=once)
            return from_url(root, config=config, client_options=client, retry_config=once)
        except (BaseError, TypeError, ValueError) as error:
            raise ValueError(f"Storage: cannot open {root}: {cause_of(error)}; see Storage's options") from error

    # --- in the loop ---

    async def _fetch(self, ranges: Sequence[Range]) -> list[np.ndarray | OSError]:
        bodies: list[Any] = [None] * len(ranges)

        async def fetch(rows: list[int]) -> None:
            first = ranges[rows[0]]
            if len(rows) == 1:
                bodies[rows[0]] = await self._caught(first)
                return
            end = max(ranges[row].offset + ranges[row].length for row in rows)
            body = await self._caught(first._replace(length=end - first.offset))
            if isinstance(body, OSError) and body.errno == errno.EINVAL:  # one of them lies outside; which?
                await asyncio.gather(*(fetch([row]) for row in rows))
                return
            for row in rows:
                begin = ranges[row].offset - first.offset
                bodies[row] = body if isinstance(body, OSError) else body[begin : begin + ranges[row].length]

        await asyncio.gather(*(fetch(rows) for rows in _spans(ranges)))
        return bodies

    async def _caught(self, range_: Range) -> np.ndarray | OSError:
        if range_.length == 0:
            return np.empty(0, np.uint8)
        try:
            return await self._tried(range_.url, lambda: self._get(range_))
        except OSError as error:
            return error

    async def _tried(self, url: str, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request that is made anew for as long as that may help. Raises ``OSError``."""
        if self._gate is None:
            self._gate = asyncio.Semaphore(self._concurrency)
        delays_s = self._retry.delays_s()
        attempts = 0
        while True:
            attempts += 1
            try:
                async with self._gate:
                    return await request()
            except Exception as raised:
                error = as_os_error(raised, url)
                if not is_transient(error):
                    raise error from raised
                delay_s = next(delays_s, None)
                if delay_s is None:
                    raise exhausted(error, attempts) from raised
            await asyncio.sleep(delay_s)

    async def _get(self, range_: Range) -> np.ndarray:
        url, offset, length, version = range_
        store, key = self._locate(url)
        options: dict[str, Any] = {}
        if length >= 0:
            options["range"] = (offset, offset + length)
        elif offset:
            options["range"] = {"offset": offset}
        try:
            answer = await watched(self._obstore.get_async(store, key, options=options))
        except self._obstore.exceptions.GenericError as error:
            if status_of(error) != 416:
                raise
            size = (await self._head(url)).size_bytes
            if offset == size and length < 0:
                return np.empty(0, np.uint8)
            raise _outside(url, offset, length, size) from error
        start, stop = answer.range
        if version and _version(answer.meta) != version:
            message = f"the object was {version} when it was listed or indexed, now it is {_version(answer.meta)}"
            raise OSError(errno.EPROTO, f"{message}; make the index anew", url)
        if length >= 0 and stop - start < length:
            raise _outside(url, offset, length, answer.meta["size"])
        if stop - start > native.MAX_FILE_BYTES:
            message = f"{stop - start} bytes, at most {native.MAX_FILE_BYTES} are read at once"
            raise OSError(errno.EFBIG, message, url)
        body = np.frombuffer(await watched(answer.bytes_async()), np.uint8)
        if len(body) != stop - start:
            raise OSError(errno.EIO, f"the answer ended early: {len(body)} of {stop - start} bytes", url)
        return body

    async def _head(self, url: str) -> FileInfo:
        store, key = self._locate(url)
        meta = await watched(self._obstore.head_async(store, key))
        return FileInfo(url, meta["size"], _version(meta))

    async def _list(self, url: str) -> list[FileInfo]:
        store, prefix = self._locate(url)
        if url.startswith(("http://", "https://")):
            message = "a web server does not list its files; name them, with braces for a series: {000..099}"
            raise OSError(errno.EOPNOTSUPP, message, url)
        bucket = url[: len(url) - len(prefix)].rstrip("/") + "/"
        found: list[FileInfo] = []
        rising, after = True, ""

        async def pages() -> None:
            """Goes on behind what an earlier attempt found, where the store lists in order; most do."""
            nonlocal rising, after
            if not rising:
                found.clear()
            behind = after if rising and after else None
            async for page in self._obstore.list(store, prefix or None, offset=behind, chunk_size=1000):
                for meta in page:
                    rising, after = rising and meta["path"] > after, meta["path"]
                    found.append(FileInfo(bucket + meta["path"], meta["size"], _version(meta)))

        while True:
            had = len(found)
            try:
                await self._tried(url, pages)
                break
            except OSError as error:  # a long listing may need more attempts than a read
                if not (rising and len(found) > had and is_transient(error)):
                    raise
        if any(file.size_bytes == 0 for file in found):  # some tools put empty objects where a folder would be
            folders = {file.path[: at.start()] for file in found for at in re.finditer("/", file.path)}
            found = [file for file in found if file.size_bytes or file.path not in folders]
        return sorted(found)


def _spans(ranges: Sequence[Range]) -> list[list[int]]:
    """The rows that travel together."""
    spans: list[list[int]] = []
    begin = end = 0
    before: Range | None = None
    for row in sorted(range(len(ranges)), key=lambda row: ranges[row]):
        range_ = ranges[row]
        mine = range_.offset + range_.length
        together = (
            before is not None
            and (range_.url, range_.version) == (before.url, before.version)
            and range_.length > 0
            and before.length > 0
            and range_.offset <= end + _GAP_BYTES
            and max(mine, end) - begin <= _SPAN_BYTES
        )
        if together:
            spans[-1].append(row)
            end = max(mine, end)
        else:
            spans.append([row])
            begin, end = range_.offset, mine
        before = range_
    return spans


def _endpoint(config: Mapping[str, Any]) -> str:
    named = {name.lower(): str(value) for name, value in {**os.environ, **config}.items()}
    return next((named[name] for name in reversed(_ENDPOINTS) if name in named), "")


def _version(meta: Mapping[str, Any]) -> str:
    """Of an object: its version, ETag or time; empty where the server gives none."""
    modified: datetime = meta["last_modified"]
    since = "" if modified == datetime.fromtimestamp(0, timezone.utc) else modified.isoformat()
    return meta["version"] or meta["e_tag"] or since


def _outside(url: str, offset: int, length: int, size: int) -> OSError:
    asked = f"starts at byte {offset} and asks for {max(length, 0)}"
    return OSError(errno.EINVAL, f"the range {asked}, the object has {size}", url)
