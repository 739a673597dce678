"""A small HTTP server on 127.0.0.1 that can be made to fail."""

import contextlib
import http.server
import threading


class Server:
    """Serves the files of `folder` and records the requests.

    ranges: whether requests for a part of a file get only that part.
    cut: number of bytes of each response after which the connection is closed.
    stall: an event to wait for after as many bytes (10 if `cut` is None).
    """

    def __init__(self, folder, ranges=False):
        self.folder, self.ranges = folder, ranges
        self.cut, self.stall = None, None
        self.asked, self.starts = [], []  # paths; first bytes
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(
            target=self.http.serve_forever, args=[0.01], daemon=True).start()

    def _handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                file = server.folder / self.path.lstrip("/")
                if not file.is_file():
                    return self.send_error(404)
                content = file.read_bytes()
                start = 0
                if server.ranges and "Range" in self.headers:
                    start = int(self.headers["Range"][len("bytes="):-1])
                server.starts.append(start)
                if start >= len(content) > 0:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range",
                                     f"bytes {start}-{len(content) - 1}/{len(content)}")
                content = content[start:]
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                first = 10 if server.cut is None else server.cut
                with contextlib.suppress(ConnectionError):  # the client hung up
                    self.wfile.write(content[:first])
                    self.wfile.flush()
                    if server.stall:
                        server.stall.wait(10)
                    if server.cut is None:
                        self.wfile.write(content[first:])

            def log_message(self, *args):
                pass

        return Handler

    def close(self):
        self.http.shutdown()
        self.http.server_close()
