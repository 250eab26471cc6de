"""The parser of requests: an offer of another protocol changes nothing."""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class RequestParser(httptools.HttpRequestParser):
    """httptools' parser, for a server that takes no offer of another protocol.

    Where a request has an Upgrade header (Java's client and `curl --http2` offer HTTP/2, a browser WebSocket),
    httptools stops and takes what follows for bytes of that protocol: the body is lost. A server may ignore an offer
    (RFC 9110, 7.8), so the head is then parsed a second time, without that header, and its body with it.

    Args:
        protocol: has the callbacks. uvicorn removes the parser from it when the connection is lost.
    """

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._callbacks = _Callbacks(protocol)
        self._start()

    def _start(self) -> None:
        super().__init__(self._callbacks)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        while data:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as stop:
                data = self._callbacks.take_head() + data[stop.args[0] :]
                self._start()  # after "Connection: close" it would take no more


class _Callbacks:
    """The callbacks of a protocol, except for the end of a head that offers another protocol."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self._head = b""  # of the offer, without it
        self.on_message_begin, self.on_url = protocol.on_message_begin, protocol.on_url
        self.on_header, self.on_body = protocol.on_header, protocol.on_body

    def take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def on_headers_complete(self) -> None:
        protocol, parser = self._protocol, self._protocol.parser
        # CONNECT is the other reason to stop; it has no body.
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            lines = [b"%b %b HTTP/%b" % (parser.get_method(), protocol.url, parser.get_http_version().encode())]
            lines += [b"%b: %b" % header for header in protocol.headers if header[0] != b"upgrade"]
            self._head = b"\r\n".join([*lines, b"", b""])
        else:
            protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._head:
            self._protocol.on_message_complete()
