"""Google Cloud Storage, as far as it is S3 by other names: its XML API in front of moto. The emulators that can be installed
speak the JSON API only, which the library under test does not use."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "a-token-for-tests"
_SCOPE = "20260101/us-east-1/s3/aws4_request"
_SPOKEN = {"x-goog-copy-source": "x-amz-copy-source", "content-type": "content-type", "range": "range"}


@pytest.fixture(scope="session")
def gcs_server(s3_server: dict[str, str]) -> Iterator[dict[str, object]]:
    """Options for a server of our own, with the bucket `boucle-tests`."""
    behind = urllib.parse.urlsplit(s3_server["endpoint"]).netloc

    class Translator(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {}, b"<Error><Code>AuthenticationRequired</Code></Error>")
                return
            self.path = self.path.replace("%2D", "-")
            # moto wants to see a signature, and does not check it
            headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential=test/{_SCOPE}, SignedHeaders=host, Signature=0"}
            headers |= {spoken: self.headers[name] for name, spoken in _SPOKEN.items() if name in self.headers}
            for name in ("if-match", "if-none-match"):
                if name in self.headers:
                    headers[name] = self.headers[name]
            if self.headers.get("x-goog-if-generation-match") == "0":
                headers["if-none-match"] = "*"
                if "x-amz-copy-source" in headers and self.there(behind):  # S3 knows no conditional copy
                    self.answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
            connection = http.client.HTTPConnection(behind, timeout=30)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() in _KEPT}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.answer(answer.status, kept, content, length)
            connection.close()

        def there(self, server: str) -> bool:
            connection = http.client.HTTPConnection(server, timeout=30)
            connection.request(
                "HEAD", self.path, headers={"Authorization": f"AWS4-HMAC-SHA256 Credential=test/{_SCOPE}"}
            )
            found = connection.getresponse().status == 200
            connection.close()
            return found

        def answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "x-goog-generation": "1"}.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Nothing of it is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Translator)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"endpoint": f"http://127.0.0.1:{server.server_address[1]}", "bearer_token": TOKEN}
    server.shutdown()
    server.server_close()


_KEPT = {"etag", "last-modified", "content-type", "content-range"}
