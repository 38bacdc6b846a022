"""An S3-compatible server on loopback (moto's), which counts what is asked of it and can break a connection."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-told",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class _Handler(MotoRequestHandler):
    # Connections are kept, as they are by S3; a new one for each request would cost more than the request.
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


class Store:
    """The server."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Requests by method; listings are LIST."""
        self.sent = self.taken = 0
        """Bytes of the bodies that came in, and of those that went out."""
        self.busy = self.most = 0
        """Requests that are answered now, and the most that were at the same time."""
        self._counting = threading.Lock()
        self.broken = ""
        """The connection breaks in the middle of what is put under a name that contains this."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        listing = method == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        self.asked["LIST" if listing else method] += 1
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if method == "PUT" and self.broken and self.broken in environ["PATH_INFO"]:
            environ["wsgi.input"].read(length // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError("as asked")
        self.sent += length
        with self._counting:
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            for block in self._app(environ, start_response):
                self.taken += len(block)
                yield block
        finally:
            with self._counting:
                self.busy -= 1

    def bucket(self, name: str) -> str:
        """Makes a bucket; its URL."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def upload(self, folder: Path, url: str) -> None:
        """Copies a folder's files there."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                # Not through the server, which takes 15 ms an object.
                s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(
                    bucket, f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes()
                )

    def objects(self, url: str) -> dict[str, bytes]:
        """All objects below a URL by their names from there."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {
            key.removeprefix(f"{prefix}/"): self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in keys
        }

    def forget(self) -> None:
        """Counts from nothing again."""
        self.asked.clear()
        self.sent = self.taken = self.most = 0

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def environment(store: Store) -> dict[str, str]:
    """What a process needs to use the server."""
    return os.environ | ENVIRONMENT | {"AWS_ENDPOINT_URL": store.url}


def disconnect() -> None:
    """Has the library forget its connections, with the credentials and the address that they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
