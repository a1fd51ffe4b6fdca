#!/usr/bin/python3
"""A worker in plain Python, written from shared/wire/PROTOCOL.md alone.

    python_worker.py ENDPOINT[,ENDPOINT...] [SLOTS]

Kinds: py.echo (the body), py.sleep ({"ms":n}, with progress; renews its lease, can be cancelled),
py.fail (body "retry" or anything else: fatal), py.family (a child py.echo for each word)."""
import json
import os
import signal
import socket
import sys
import threading
import uuid

import zmq

from python_wire import ANSWER_S, HELLO_S, Link, items_with_bytes, now, ulid

RESEND_S, RESEND_MAX_S = 2.0, 15.0


class Failure(Exception):
    def __init__(self, kind, code, text):
        super().__init__(text)
        self.kind, self.code = kind, code


class Stopped(Exception):
    pass


class Job:
    """A lease: runs in a thread of its own, so that beats never wait for it."""

    def __init__(self, item, body, wake):
        self.id, self.epoch, self.grant = item["id"], item["epoch"], item["grant"]
        self.kind, self.attempt, self.body = item["kind"], item.get("att", 1), body
        self.is_transient = item.get("tr", False)
        self.until = now() + item["run"] / 1000 if item.get("run") else None
        self.wake, self.stop = wake, None  # stop: why it shall stop
        self.progress, self.is_told = "", True
        self.result = None  # (fields, bytes) once it has ended
        self.send_at, self.resend_s, self.is_dropped = 0.0, RESEND_S, False
        self.children = []
        threading.Thread(target=self.run, daemon=True).start()

    def token(self):
        return {"id": self.id, "epoch": self.epoch, "grant": self.grant}

    def check(self):
        if self.stop is not None:
            raise Stopped()

    def tell(self, **progress):
        self.progress, self.is_told = json.dumps(progress), False
        self.wake()

    def run(self):
        started = now()
        fields, data = self.token(), b""
        try:
            data = KINDS[self.kind](self)
            fields |= {"class": "ok", "code": "ok", "len": len(data), "spawn": self.children}
        except Stopped:
            endings = {"cancel": ("cancelled", "cancelled", "cancelled by request"),
                       "timeout": ("retry", "timeout", "ran longer than max_run_ms"),
                       "drain": ("return", "busy", "worker drains"),
                       "stale": ("return", "stale", "")}
            fields |= dict(zip(("class", "code", "error"), endings[self.stop]))
        except Failure as failure:
            fields |= {"class": failure.kind, "code": failure.code, "error": str(failure)[:500]}
        except Exception as error:  # a fault of the kind's own code
            fields |= {"class": "retry", "code": "internal", "error": repr(error)[:500]}
        fields["rus"] = int((now() - started) * 1e6)
        self.result = fields, data
        self.wake()


def echo(job):
    return job.body


def sleep(job):
    until = now() + json.loads(job.body)["ms"] / 1000
    while now() < until:
        job.check()
        job.tell(left_ms=int((until - now()) * 1000), attempt=job.attempt)
        threading.Event().wait(0.05)
    return b'{"slept":true}'


def fail(job):
    if job.body == b"retry":
        raise Failure("retry", "internal", f"attempt {job.attempt} fails as it was asked to")
    raise Failure("fatal", "failed", "fails for good, as it was asked to")


def family(job):
    for word in job.body.decode().split():
        job.children.append({"id": ulid(job.id), "kind": "py.echo", "body": word})
    return b"%d" % len(job.children)


KINDS = {"py.echo": echo, "py.sleep": sleep, "py.fail": fail, "py.family": family}
LIMITS = [{"kind": "py.fail", "att": 2}]


class Worker:
    def __init__(self, endpoints, slots):
        self.context = zmq.Context()
        self.link = Link(self.context, endpoints)
        self.uuid, self.slots = uuid.uuid4().hex, slots
        self.jobs, self.seen, self.seq = {}, 0, 0
        self.beat_s, self.state, self.told_free = 5.0, "down", -1
        self.heard = self.asked = self.ask_at = self.beat_at = 0.0
        self.is_draining = False
        self.signal_in, self.signal_out = socket.socketpair()
        self.signal_in.setblocking(False)
        self.signal_out.setblocking(False)

    def wake(self):
        try:
            self.signal_out.send(b"x")
        except BlockingIOError:
            pass

    # ---- sending ----

    def held(self):
        return [job.token() for job in self.jobs.values() if not job.is_dropped]

    def free(self):
        running = sum(job.result is None for job in self.jobs.values())
        return 0 if self.is_draining else max(self.slots - running, 0)

    def counts(self):
        self.seq += 1
        self.told_free = self.free()
        return {"worker": self.uuid, "seq": self.seq, "free": self.told_free, "seen": self.seen}

    def send_beat(self):
        self.beat_at = now() + self.beat_s
        self.link.send("beat", self.counts() | {"drain": self.is_draining, "jobs": self.held()})

    def connect(self):
        self.link.next_broker()
        self.state, self.heard, self.asked, self.ask_at = "greeting", now(), now(), 0.0

    def timers(self):
        is_asking = self.state in ("greeting", "registering")
        if (is_asking and now() - self.asked > ANSWER_S) or now() - self.heard > 3 * self.beat_s:
            self.connect()
        if self.state == "greeting" and now() >= self.ask_at:
            self.link.send("hello", {"role": "worker", "name": "python", "min": 1, "max": 1})
            self.ask_at = now() + HELLO_S
        elif self.state == "registering" and now() >= self.ask_at:
            self.link.send("ready", {"worker": self.uuid, "name": "python", "kinds": list(KINDS),
                                     "limits": LIMITS, "slots": self.slots, "pid": os.getpid(), "held": self.held()})
            self.ask_at = now() + HELLO_S
        elif self.state == "serving":
            self.serve()

    def serve(self):
        for key, job in list(self.jobs.items()):
            if job.until is not None and now() > job.until and job.stop is None:
                job.stop = "timeout"
            if job.result is None and not job.is_told:
                job.is_told = True
                self.link.send("progress", job.token() | {"progress": job.progress})
            if job.result is not None and job.is_dropped:
                del self.jobs[key]
            elif job.result is not None and now() >= job.send_at:
                fields, data = job.result
                self.link.send("result", {"worker": self.uuid, "jobs": [fields]}, data)
                job.send_at = now() + job.resend_s
                job.resend_s = min(job.resend_s * 2, RESEND_MAX_S)
                if job.is_transient:
                    del self.jobs[key]
        if now() >= self.beat_at:
            self.send_beat()
        elif self.free() != self.told_free:
            self.link.send("credit", self.counts())

    # ---- receiving ----

    def judge(self, verdicts, is_final):
        for verdict in verdicts:
            job = self.jobs.get((verdict["id"], verdict["epoch"], verdict["grant"]))
            word = verdict["verdict"]
            if job is None:
                continue
            if word in ("stale", "unknown"):
                job.stop, job.is_dropped = "stale", True
            elif job.result is not None and (word == "dup" or (is_final and word == "ok")):
                job.is_dropped = True
            elif word in ("cancel", "timeout") and job.stop is None:
                job.stop = word

    def on_jobs(self, fields, payload):
        for item, body in items_with_bytes(fields.get("jobs", []), payload):
            self.seen += 1
            key = item["id"], item["epoch"], item["grant"]
            if key not in self.jobs:
                self.jobs[key] = Job(item, body, self.wake)
        self.send_beat()  # the acceptance

    def on_message(self, name, fields, payload):
        self.heard = now()
        if name == "welcome" and self.state == "greeting":
            self.state, self.asked, self.ask_at = "registering", now(), 0.0
        elif name == "registered":
            self.state, self.beat_s = "serving", fields["beat"] / 1000
            self.judge(fields.get("verdicts", []), False)
            for job in self.jobs.values():
                job.send_at = 0.0
            self.send_beat()
        elif name == "job":
            self.on_jobs(fields, payload)
        elif name in ("beaten", "verdict"):
            self.judge(fields.get("verdicts", []), name == "verdict")
        elif name == "drain":
            self.is_draining = True
        elif name == "error" and fields["code"] in ("moved", "version"):
            self.connect()
        elif name == "error" and fields["code"] == "not_found" and not fields.get("rid"):
            self.state, self.asked, self.ask_at = "greeting", now(), 0.0

    def run(self):
        poller = zmq.Poller()
        self.connect()
        while not (self.is_draining and not self.jobs):
            poller = zmq.Poller()
            poller.register(self.link.socket, zmq.POLLIN)
            poller.register(self.signal_in, zmq.POLLIN)
            if dict(poller.poll(50)).get(self.signal_in.fileno()):
                self.signal_in.recv(4096)
            while (message := self.link.receive()) is not None:
                self.on_message(*message)
            self.timers()
        self.link.send("bye", {"worker": self.uuid})
        self.context.destroy(linger=1000)


if __name__ == "__main__":
    worker = Worker(sys.argv[1].split(","), int(sys.argv[2]) if len(sys.argv) > 2 else 1)

    def drain(_number, _frame):
        worker.is_draining = True

    signal.signal(signal.SIGTERM, drain)
    worker.run()
