"""A local HTTP server that serves one file by a script of faults."""

import contextlib
import hashlib
import http.server
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Script(http.server.BaseHTTPRequestHandler):
    """Answers by the next step of the server's script; without one as a good server does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        step = server.script.pop(0) if server.script else {}
        if step.get("redirect"):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if status := step.get("status"):
            self.send_response(status)
            self.send_header("Retry-After", step.get("retry_after", "0"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = step.get("data", DATA)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(asked[1]) if asked and not step.get("ignore_range") else 0
        if begin and begin >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            claimed = begin + step.get("shift", 0)
            self.send_header("Content-Range", f"bytes {claimed}-{len(data) - 1}/{len(data)}")
        if step.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        elif step.get("length", True):
            self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        body = data[begin : step.get("cut", len(data))]
        if step.get("chunked"):  # a cut loses the end mark, too
            end = b"" if "cut" in step else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n" % (len(body), body) + end
        self.send_body(body, step)

    def send_body(self, body, step):
        half = len(body) // 2
        try:
            self.wfile.write(body[:half])
            if wait := step.get("wait"):
                wait()
            for i in range(half, half + step.get("trickle", 0)):
                self.wfile.write(body[i : i + 1])
                time.sleep(0.05)
            self.wfile.write(body[half:])
        except OSError:
            return  # the client had enough
        if step.get("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Script)
        self.script, self.requests = [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self):
        return f"{self.address}/models/{SHA256}/tiny.pt"

    @property
    def ranges(self):
        return [asked for _, asked in self.requests]

    def handle_error(self, request, client_address):
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
