"""Objects of an S3, GCS or Azure store, a directory or this process's memory, through obstore: blocking
calls.

:class:`Objects` is what the ``objects`` driver and the archive ask of a store; :class:`ObstoreObjects` is
that on obstore, and tests put a wrapper of the same shape before it.  Keys are UTF-8 text, parts joined with
``/``, relative to the URL.  Each call may be made on any thread, and fails with an :class:`OSError`:

=========  ===================================================================================================
ENOENT     no such object
EEXIST     ``create``: there is one
ESTALE     the object was replaced since its etag was asked for
EACCES     the server refuses these credentials, or there are none
EFBIG      ``put(create=True)`` of more than 5 GiB, which no server takes in one request
EOPNOTSUPP the server can't do that
EIO        anything else: no connection, a time-out, an answer that is none; it was tried again before
=========  ===================================================================================================

A request is tried again after an answer that is none, after 408, 429 and 5xx, with growing waits, as often as
:class:`Access` says; obstore itself tries nothing again (it would not a listing whose connection ends in the
middle, a delete or a create without an answer), so each try is counted.  All requests may be repeated: a
create finds out whether it was the first, see below.

Facts of the servers, found out by running them (obstore 0.12.1; Ceph radosgw 16.2.15, the local and the
memory store):

* A range that begins at the end of an object or behind it is an error, and so is one of no bytes: never
asked.
* A create whose answer was lost is tried again, and then finds its own object ("already exists"):
  what is there is compared with what was to be written.  So whoever creates should write something unique.
* The condition of a create is ignored at the end of a multipart upload and by server-side copies: a create
  is a single request whatever its size, and a copy that must not replace is refused (memory and local: they
  can).
* An empty list and a list of a key that is an object look the same; deleting what is missing is no error.
* After a fork a store hangs in the child: it is made by the process that uses it (:func:`connect`).

No credentials are kept or told here: obstore reads AWS_*, GOOGLE_* and AZURE_* variables, and asks the
instance's metadata service; ``object_access`` reads the profile of ``~/.aws``.  TLS certificates are
verified; plain HTTP is used only for an endpoint that says ``http://``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache, partial
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from msgspec import Struct, field

from dboxfs.errors import NoSuchStore, Unsupported
from dboxfs.fsapi.drivers.object_access import Access, certificates, shared_config

PART: Final = 8 << 20
"""Bytes above which a replacing put is a multipart upload, and of each of its parts."""

LARGE: Final = 4 << 20
"""Bytes of a put above which it has more time."""

_LARGE_FACTOR = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0

R = TypeVar("R")

_URL = re.compile(r"(s3a?|gs|az|azure|abfss?|adl|file|memory)://", re.IGNORECASE)
_MOST_CREATED = 5 << 30


def is_url(text: str) -> bool:
    """Whether *text* names an object store."""
    return _URL.match(text) is not None


class ObjectInfo(Struct, frozen=True):
    """One object.  ``size``: bytes.  ``modified_ns``: since the epoch.  ``etag``: None where there are
    none."""

    key: str
    size: int
    modified_ns: int
    etag: str | None


class Cost(Struct):
    """What was asked of a store so far, repetitions too; of a put in parts each part once."""

    requests: dict[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, up: int = 0, down: int = 0, requests: int = 1) -> None:
        """*requests* of one *kind* (any thread)."""
        with self._lock:
            self.requests[kind] = self.requests.get(kind, 0) + requests
            self.bytes_up += up
            self.bytes_down += down

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.requests.items()))
        total = sum(self.requests.values())
        return f"{total} requests ({kinds or 'none'}), {self.bytes_up} bytes up, {self.bytes_down} down"


class Objects(Protocol):
    """What is asked of a store (errors: above)."""

    @property
    def cost(self) -> Cost:
        """What was asked so far."""

    def head(self, key: str) -> ObjectInfo:
        """Size, date and etag."""

    def get(self, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        """The bytes from *start* to before *end*, which lie in the object; EIO if fewer came.

        :param etag: ESTALE if the object has another one by now.
        """

    def get_whole(self, key: str) -> bytes:
        """All of an object; EIO if it was cut on the way."""

    def put(self, key: str, data: bytes | memoryview, *, create: bool) -> None:
        """Write an object whole, in one request.  ``create``: EEXIST if there is one."""

    def put_file(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an object, or replace it, from a file, in parts; it appears whole, or not."""

    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""

    def copy(self, source: str, target: str, *, replace: bool) -> None:
        """Copy an object in the store."""

    def list_all(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below *prefix* (whole parts of keys; "": all), in no order."""

    def list_level(self, prefix: str) -> tuple[list[str], list[ObjectInfo]]:
        """The next parts of keys below *prefix* that lead on, and the objects right below it."""


class ObstoreObjects:
    """:class:`Objects` on a store of obstore.

    :param url: for people: stands before the key in errors.
    :param retries: how often a request is tried again.
    :param large: makes the store for large puts; None: it is the same.
    """

    def __init__(
        self, store: Any, url: str = "", retries: int = 0, large: Callable[[], Any] | None = None
    ) -> None:
        self.cost = Cost()
        self._url = url
        self._store = store
        self._retries = retries
        self._large = cache(large or (lambda: store))
        self._o = _obstore()

    def head(self, key: str) -> ObjectInfo:
        return self._info(self._call(key, "HEAD", lambda: self._o.head(self._store, key)))

    def get(self, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        options: dict[str, Any] = {"range": (start, end)}
        if etag is not None:
            options["if_match"] = etag
        try:
            data = self._get(key, options)
        except OSError as error:
            if error.errno == errno.ESTALE:
                self.head(key)  # Azure says of a deleted object that it has another etag: this says ENOENT
            raise
        if len(data) != end - start:
            raise OSError(errno.EIO, f"{len(data)} bytes came of {end - start}", key)
        return data

    def get_whole(self, key: str) -> bytes:
        return self._get(key, {})

    def _get(self, key: str, options: dict[str, Any]) -> bytes:
        found = self._call(key, "GET", lambda: self._o.get(self._store, key, options=options).bytes())
        self.cost.count("GET", down=len(found), requests=0)
        return bytes(memoryview(found))

    def put(self, key: str, data: bytes | memoryview, *, create: bool) -> None:
        if len(data) > _MOST_CREATED:
            raise OSError(errno.EFBIG, "more than 5 GiB in one request", key)
        store = self._large() if len(data) > LARGE else self._store
        mode = "create" if create else "overwrite"

        def put() -> None:
            self._o.put(store, key, data, mode=mode, use_multipart=False)

        try:
            self._call(key, "PUT", put, up=len(data))
        except OSError as error:
            if not create or error.errno not in (errno.EEXIST, errno.EIO) or not self._is_there(key, data):
                raise

    def _is_there(self, key: str, data: bytes | memoryview) -> bool:
        """Whether a create whose answer said otherwise has written its object after all."""
        try:
            return self.head(key).size == len(data) and memoryview(self.get_whole(key)) == memoryview(data)
        except OSError:
            return False

    def put_file(self, key: str, file: BinaryIO, size: int) -> None:
        def put() -> None:
            file.seek(0)
            self._o.put(
                self._large(), key, file, use_multipart=size > PART, chunk_size=PART, max_concurrency=4
            )

        self._call(key, "PUT", put, up=size, requests=max(1, -(-size // PART)) + 2 * (size > PART))

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(key, "DELETE", lambda: self._o.delete(self._store, key))

    def copy(self, source: str, target: str, *, replace: bool) -> None:
        self._call(source, "COPY", lambda: self._o.copy(self._store, source, target, overwrite=replace))

    def list_all(self, prefix: str) -> Iterator[ObjectInfo]:
        def listed() -> list[ObjectInfo]:
            found = []
            pages = self._o.list(self._store, prefix or None, chunk_size=_PAGE)
            for number, page in enumerate(pages):
                self.cost.count("LIST", requests=min(number, 1))  # the first one is counted by _call
                found += [self._info(entry) for entry in page]
            return found

        yield from self._call(prefix, "LIST", listed)

    def list_level(self, prefix: str) -> tuple[list[str], list[ObjectInfo]]:
        found = self._call(prefix, "LIST", lambda: self._o.list_with_delimiter(self._store, prefix or None))
        skip = len(prefix) + 1 if prefix else 0
        return [name[skip:] for name in found["common_prefixes"]], [self._info(e) for e in found["objects"]]

    def _info(self, entry: Mapping[str, Any]) -> ObjectInfo:
        modified = int(entry["last_modified"].timestamp() * 10**6) * 1000
        return ObjectInfo(entry["path"], entry["size"], modified, entry["e_tag"])

    def _call(self, key: str, kind: str, call: Callable[[], R], *, up: int = 0, requests: int = 1) -> R:
        """What *call* gives, tried again where that may help; each try counts as so many *requests*."""
        for attempt in range(self._retries + 1):
            self.cost.count(kind, up=up, requests=requests)
            try:
                return call()
            except FileNotFoundError as error:
                text = NO_BUCKET if _NO_BUCKET in str(error) else os.strerror(errno.ENOENT)
                raise OSError(errno.ENOENT, text, self._where(key)) from None
            except (ValueError, self._o.exceptions.InvalidPathError) as error:
                raise OSError(errno.EINVAL, _line(error), self._where(key)) from None
            except (self._o.exceptions.BaseError, OSError) as error:
                text, code = str(error), self._code(error)
                if attempt == self._retries or not may_pass(text, code):
                    raise OSError(*understood(text, code), self._where(key)) from None
            time.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1))
        raise AssertionError("the last try returns or raises")

    def _code(self, error: Exception) -> int:
        """The errno for the class of *error*."""
        kinds = self._o.exceptions
        table = (
            (kinds.NotFoundError, errno.ENOENT),
            (kinds.AlreadyExistsError, errno.EEXIST),
            (kinds.PreconditionError, errno.ESTALE),
            (kinds.PermissionDeniedError, errno.EACCES),
            (kinds.UnauthenticatedError, errno.EACCES),
            (kinds.NotSupportedError, errno.EOPNOTSUPP),
        )
        return next((code for kind, code in table if isinstance(error, kind)), errno.EIO)

    def _where(self, key: str) -> str:
        return f"{self._url}/{key}" if self._url else key


_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_PAGE = 1000

NO_BUCKET: Final = "there is no such bucket"
_NO_BUCKET = "NoSuchBucket"


def may_pass(text: str, code: int) -> bool:
    """Whether an error may be gone at the next try: no answer, half of one, or one that says so.

    :param text: what obstore says.  :param code: what the class of the error says.
    """
    status = _STATUS.search(text)
    if code != errno.EIO or _CERTIFICATE.search(text) or _NO_BUCKET in text:
        return False
    return status is None or status[1] in ("408", "429") or status[1].startswith("5")


def understood(text: str, code: int) -> tuple[int, str]:
    """errno and one line for what obstore says, of which the text alone tells most kinds apart.

    :param code: what the class of the error says.
    """
    status, name = _STATUS.search(text), _CODE.search(text)
    why = f" ({name[1]})" if name is not None else ""
    if name is not None and name[1] == _NO_BUCKET:
        return errno.ENOENT, NO_BUCKET
    if (status is not None and status[1] in ("401", "403")) or code == errno.EACCES:
        return errno.EACCES, f"the server refuses these credentials{why}"
    if code == errno.EIO and status is not None:
        return code, f"the server answers {status[1]}{why}"
    certificate = _CERTIFICATE.search(text)
    if certificate is not None:
        return code, (
            f"the server's certificate is not trusted ({certificate[1]}); --ca-file FILE, or -o ca_file= of "
            "a mount, names the certificates of its CA"
        )
    if code == errno.EIO and "body error" in text:
        return code, "the connection ended, or time ran out, in the middle of the answer"
    if code == errno.EIO and "error sending request" in text:
        return code, "no connection to the server, or no answer in time"
    return code, _line(text)


def _line(error: BaseException | str) -> str:
    """What went wrong, as one line; the server's whole answer stays out of it."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= 300 else text[:300] + "..."


def _obstore() -> Any:
    """
    :raises Unsupported: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise Unsupported("object storage needs the package obstore: pip install 'dboxfs[objects]'") from None
    return obstore


def refuse_nowhere(url: str) -> None:
    """Refuse a directory of objects that is not there, which the client of the object store would make.

    :raises NoSuchStore: it is not there.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "file" and not os.path.isdir("/" + rest.lstrip("/")):
        raise NoSuchStore(f"{url}: no generation of an archive is there: no such directory")


def connect(url: str, access: Access | None = None) -> ObstoreObjects:
    """The store at *url*: ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file:///directory``.

    Nothing is asked of it yet.  The process that calls this is the one that may use it.

    :raises Unsupported: obstore is not installed.
    :raises OSError: EINVAL: the URL or the settings in the environment are wrong; or the file of certificates
        can't be read.
    """
    access = access or Access()
    stores = _obstore().store
    scheme, _, rest = url.partition("://")
    url = url.rstrip("/")
    try:
        if scheme.lower() == "file":
            path = os.path.abspath("/" + rest.lstrip("/"))
            return ObstoreObjects(stores.LocalStore(path, mkdir=True, automatic_cleanup=True), url)
        if scheme.lower() == "memory":
            return ObstoreObjects(stores.MemoryStore())
        given: dict[str, Any] = shared_config(os.environ) if scheme.lower() in ("s3", "s3a") else {}
        endpoint = given.get("endpoint") or os.environ.get(
            "AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")
        )
        client: dict[str, Any] = {"connect_timeout": f"{min(access.timeout, 10) * 1000:.0f}ms"}
        if endpoint.lower().startswith("http://"):
            client["allow_http"] = True
        bundle = given.pop("ca_bundle", os.environ.get("AWS_CA_BUNDLE"))
        ca_file = access.ca_file or bundle
        if ca_file:
            client["root_certificate"] = certificates(ca_file)
        once = {"max_retries": 0, "retry_timeout": timedelta(seconds=access.timeout)}

        def made(seconds: float) -> Any:
            options = client | {"timeout": f"{seconds * 1000:.0f}ms"}
            return stores.from_url(url, client_options=options, retry_config=once, **given)

        large = partial(made, access.timeout * _LARGE_FACTOR)
        return ObstoreObjects(made(access.timeout), url, access.retries, large)
    except Exception as error:
        if isinstance(error, Unsupported | OSError):
            raise
        raise OSError(errno.EINVAL, _line(error), url) from None
