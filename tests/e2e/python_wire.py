"""Frames of the maasq protocol over pyzmq and msgpack; shared/wire/PROTOCOL.md, sections 1, 2 and 10."""
import os
import time

import msgpack
import zmq

VERSION = 1
NAMES = {
    "hello": 1, "welcome": 2, "error": 3,
    "submit": 10, "submitted": 11, "done": 12, "get": 13, "state": 14, "cancel": 15, "reply": 16,
    "ready": 40, "registered": 41, "credit": 42, "job": 43, "beat": 44, "beaten": 45, "result": 46,
    "verdict": 47, "progress": 48, "drain": 53, "bye": 54,
}
COMMANDS = {number: name for name, number in NAMES.items()}
HELLO_S, ANSWER_S = 1.0, 5.0


def now():
    return time.monotonic()


def ulid(parent=None):
    """A new job id; a child's has letters 11 and 12 of its parent's, so that it is in the same shard."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    text = "".join(letters[value >> shift & 31] for shift in range(125, -1, -5))
    return text if parent is None else text[:10] + parent[10:12] + text[12:]


class Link:
    """A DEALER at one broker of a list."""

    def __init__(self, context, endpoints):
        self.context, self.endpoints, self.at, self.socket = context, endpoints, -1, None

    def next_broker(self):
        """A new connection; nothing that was sent before counts."""
        if self.socket is not None:
            self.socket.close(linger=0)
        self.at = (self.at + 1) % len(self.endpoints)
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.connect(self.endpoints[self.at])

    def send(self, name, fields, payload=b""):
        """Absent fields stand for 0, false and empty."""
        header = {key: value for key, value in fields.items() if value}
        head = bytes([ord("M"), ord("Q"), VERSION, NAMES[name]])
        try:
            self.socket.send_multipart([head, msgpack.packb(header), payload], zmq.DONTWAIT)
        except zmq.Again:
            pass  # whatever matters is sent again

    def receive(self):
        """(name, fields, payload), or None when nothing is there."""
        try:
            head, header, payload = self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        if head[:3] != b"MQ\x01" or head[3] not in COMMANDS:
            return "unknown", {}, b""  # added later: skipped
        return COMMANDS[head[3]], msgpack.unpackb(header), payload


def items_with_bytes(items, payload):
    """Each item of a list with its bytes: they follow one another in the payload."""
    at = 0
    for item in items:
        size = item.get("len", 0)
        yield item, payload[at:at + size]
        at += size
