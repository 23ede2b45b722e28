"""A small server that speaks as much of Google's and Amazon's storage as TensorStore asks for.

Objects are kept in memory, and every request is noted.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

_PAGE = 100  # objects a listing shows at once: small, so that the next pages are asked for too


class ObjectStore:
    """What is stored, and what was asked.

    Attributes:
      url: of the server.
      objects: (bucket, key) -> (generation, content).
      requests: (method, bucket, key or "?", bytes sent back or received), in order.
      refused: keys (a part of them is enough) that may not be read or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.requests: list[tuple[str, str, str, int]] = []
        self.refused: set[str] = set()
        self.lock = threading.Lock()
        self.generation = 1000

    def bytes_read(self, part: str = "") -> int:
        """Returns the bytes of objects sent, of those whose key contains `part`."""
        return sum(n for method, _, key, n in self.requests if method == "GET" and part in key)

    def keys(self, bucket: str) -> list[str]:
        """Returns the keys of a bucket, in order."""
        return sorted(key for of, key in self.objects if of == bucket)


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """Runs a server on a free port of this machine while the context is open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    store = ObjectStore(f"http://127.0.0.1:{server.server_address[1]}")
    server.store = store  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        store: ObjectStore = self.server.store  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        google = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)/o(?:/(.*))?", url.path)
        with store.lock:
            if google:
                bucket, key = google[2], urllib.parse.unquote(google[3] or query.get("name", ""))
                self._google(store, bucket, key, query, body)
            else:
                bucket, _, key = url.path[1:].partition("/")
                self._amazon(store, bucket, urllib.parse.unquote(key), query, body)

    def _google(
        self, store: ObjectStore, bucket: str, key: str, query: dict[str, str], body: bytes
    ) -> None:
        there = store.objects.get((bucket, key))
        if any(part in key for part in store.refused) and key:
            return self._send(store, bucket, key, 403, b'{"error": {"code": 403}}')
        if self.command == "POST":
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (there[0] if there else 0):
                return self._send(store, bucket, key, 412, b"{}")
            store.generation += 1
            store.objects[bucket, key] = (store.generation, body)
            return self._send(store, bucket, key, 200, self._described(store, bucket, key))
        if self.command == "DELETE":
            found = store.objects.pop((bucket, key), None)
            return self._send(store, bucket, key, 204 if found else 404, b"")
        if not key:
            prefix, after = query.get("prefix", ""), query.get("pageToken", "")
            start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            keys = [
                each
                for each in store.keys(bucket)
                if each.startswith(prefix) and start <= each < end and each > after
            ]
            page = [json.loads(self._described(store, bucket, each)) for each in keys[:_PAGE]]
            answer = {"kind": "storage#objects", "items": page}
            if len(keys) > _PAGE:
                answer["nextPageToken"] = keys[_PAGE - 1]
            return self._send(store, bucket, "?", 200, json.dumps(answer).encode())
        if there is None:
            return self._send(store, bucket, key, 404, b"")
        if query.get("ifGenerationNotMatch") == str(there[0]):
            return self._send(store, bucket, key, 304, b"")
        if query.get("alt") != "media":
            return self._send(store, bucket, key, 200, self._described(store, bucket, key))
        return self._content(store, bucket, key, there, {"x-goog-generation": str(there[0])})

    def _described(self, store: ObjectStore, bucket: str, key: str) -> bytes:
        generation, content = store.objects[bucket, key]
        described = {
            "name": key,
            "bucket": bucket,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "timeCreated": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
        }
        return json.dumps(described).encode()

    def _amazon(
        self, store: ObjectStore, bucket: str, key: str, query: dict[str, str], body: bytes
    ) -> None:
        there = store.objects.get((bucket, key))
        if any(part in key for part in store.refused) and key:
            return self._send(store, bucket, key, 403, b"<Error><Code>AccessDenied</Code></Error>")
        if self.command == "PUT":
            if "aws-chunked" in (self.headers.get("Content-Encoding") or ""):
                return self._send(store, bucket, key, 501, b"")
            match, none = self.headers.get("If-Match"), self.headers.get("If-None-Match")
            if (match and (there is None or match != _tag(there))) or (none == "*" and there):
                return self._send(store, bucket, key, 412, b"")
            store.generation += 1
            store.objects[bucket, key] = (store.generation, body)
            tag = _tag(store.objects[bucket, key])
            return self._send(store, bucket, key, 200, b"", {"ETag": tag})
        if self.command == "DELETE":
            store.objects.pop((bucket, key), None)
            return self._send(store, bucket, key, 204, b"")
        if not key and "list-type" in query:
            prefix, after = query.get("prefix", ""), query.get("start-after", "")
            after = max(after, query.get("continuation-token", ""))
            keys = [one for one in store.keys(bucket) if one.startswith(prefix) and one > after]
            more = len(keys) > _PAGE
            items = "".join(
                f"<Contents><Key>{escape(one)}</Key>"
                f"<Size>{len(store.objects[bucket, one][1])}</Size></Contents>"
                for one in keys[:_PAGE]
            )
            last = escape(keys[_PAGE - 1]) if more else ""
            token = f"<NextContinuationToken>{last}</NextContinuationToken>"
            answer = (
                '<?xml version="1.0" encoding="UTF-8"?>'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<KeyCount>{len(keys[:_PAGE])}</KeyCount>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>"
                f"{items}{token if more else ''}</ListBucketResult>"
            )
            return self._send(store, bucket, "?", 200, answer.encode())
        if not key:
            return self._send(store, bucket, "?", 200, b"", {"x-amz-bucket-region": "us-east-1"})
        if there is None:
            return self._send(store, bucket, key, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        if self.headers.get("If-None-Match") == _tag(there):
            return self._send(store, bucket, key, 304, b"")
        return self._content(store, bucket, key, there, {"ETag": _tag(there)})

    def _content(
        self,
        store: ObjectStore,
        bucket: str,
        key: str,
        there: tuple[int, bytes],
        headers: dict[str, str],
    ) -> None:
        content = there[1]
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self._send(store, bucket, key, 200, content, headers)
        total = len(content)
        if not asked[1]:
            first, last = max(0, total - int(asked[2])), total - 1
        else:
            first, last = int(asked[1]), min(int(asked[2] or total), total - 1)
        if first >= total:
            headers["Content-Range"] = f"bytes */{total}"
            return self._send(store, bucket, key, 416, b"", headers)
        headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        return self._send(store, bucket, key, 206, content[first : last + 1], headers)

    def _send(
        self,
        store: ObjectStore,
        bucket: str,
        key: str,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        store.requests.append((self.command, bucket, key, len(content) if status < 300 else 0))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tag(entry: tuple[int, bytes]) -> str:
    return f'"{hashlib.md5(entry[1], usedforsecurity=False).hexdigest()}-{entry[0]}"'
