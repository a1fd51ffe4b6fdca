#!/usr/bin/python3
"""A client in plain Python, written from shared/wire/PROTOCOL.md alone: runs one job, prints its result.

    python_client.py ENDPOINT KIND BODY [TIMEOUT_S]      exit status 0: it succeeded, 1: it did not"""
import random
import sys

import zmq

from python_wire import HELLO_S, Link, items_with_bytes, now, ulid


class Client:
    def __init__(self, endpoint, timeout_s):
        self.context = zmq.Context()
        self.link = Link(self.context, [endpoint])
        self.link.next_broker()
        self.give_up, self.rid = now() + timeout_s, 0

    def ask(self, name, fields, payload, accepts):
        """Sends until an answer comes that `accepts` takes (returns something); backs off as it goes."""
        wait_s = HELLO_S
        while now() < self.give_up:
            self.rid += 1
            self.link.send(name, fields | {"rid": self.rid}, payload)
            until = min(now() + wait_s * random.uniform(0.5, 1.0), self.give_up)
            wait_s = min(wait_s * 2, 30.0)
            while now() < until:
                self.link.socket.poll(int((until - now()) * 1000) + 1)
                while (message := self.link.receive()) is not None:
                    answer = accepts(*message)
                    if answer is not None:
                        return answer
        raise TimeoutError(name)

    def hello(self):
        self.ask("hello", {"role": "client", "name": "python", "min": 1, "max": 1}, b"",
                 lambda name, fields, _: fields if name == "welcome" else None)

    def run(self, kind, body):
        """(state, result, text): submits until it is acknowledged, then asks until it has ended."""
        job, ended = ulid(), {}

        def note_done(name, fields, payload):
            if name == "done":
                for item, data in items_with_bytes(fields["jobs"], payload):
                    if item["id"] == job:
                        ended["is"] = item["state"], data, item.get("error", "")

        def submitted(name, fields, payload):
            note_done(name, fields, payload)
            if name == "submitted":
                verdict = fields["jobs"][0]["verdict"]
                return verdict if verdict != "busy" else None
            return "ok" if ended else None

        def state(name, fields, payload):
            note_done(name, fields, payload)
            if name == "state" and fields["state"] in ("succeeded", "dead", "cancelled", "expired"):
                return fields["state"], payload, fields.get("error", "")
            return ended.get("is")

        item = {"id": job, "kind": kind, "len": len(body)}
        verdict = self.ask("submit", {"jobs": [item]}, body, submitted)
        if verdict not in ("ok", "dup"):
            return verdict, b"", ""
        return ended.get("is") or self.ask("get", {"id": job, "wait": 2000, "result": True}, b"", state)


if __name__ == "__main__":
    client = Client(sys.argv[1], float(sys.argv[4]) if len(sys.argv) > 4 else 60.0)
    client.hello()
    how, result, text = client.run(sys.argv[2], sys.argv[3].encode())
    sys.stdout.write(result.decode() if how == "succeeded" else f"{how}: {text}")
    sys.exit(how != "succeeded")
