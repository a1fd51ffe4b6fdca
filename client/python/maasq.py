"""maasq for Python: jobs of a maasq system, over libmaasq (client/include/maasq.h), nothing else.

    import maasq

    with maasq.Client() as client:                      # $MAASQ_BROKER, else the local system
        print(client.run("echo", b"hello"))             # b'hello'
        job = client.submit("sleep", {"ms": 500, "progress": True}, priority=9)
        job.on_event(lambda job, event: print(event))
        print(job.id, job.result(timeout=10))

    async def main():
        async with maasq.AsyncClient() as client:       # no thread: its descriptor is in the event loop
            jobs = [client.submit("echo", b"%d" % i) for i in range(100)]
            print(await asyncio.gather(*jobs))

A body is bytes, str (UTF-8) or anything that json.dumps takes. Results are bytes. A job that fails
raises maasq.Error with `code` (a name such as "timeout") and `state` ("dead", "cancelled", ...).
Options of submit are the fields of maasq_spec: id, model, queue, tenant, memo, trace, durability
("transient" or "durable"), priority, run_at_ms, ttl_ms, lease_ms, max_run_ms, attempts_max, crashes_max,
after (ids or jobs), on_failure ("cancel" or "run"), unique, keep_ms, backoff_ms, backoff_max_ms,
limit_key, needs, memory_bytes.

Threads: Client and its jobs may be used from any thread; callbacks run on its own thread and must not
block. AsyncClient belongs to the loop in which it was made. The library is looked for in $MAASQ_LIBRARY,
then as libmaasq.so.0.
"""
import asyncio
import ctypes as c
import itertools
import json
import os
import threading
import time

__all__ = ["Client", "AsyncClient", "Job", "Error"]

_SLICE_MS = 200  # a wait comes back so often, so that Ctrl-C works
_WAIT_MAX_S = 604800.0


class _Error(c.Structure):
    _fields_ = [("code", c.c_int), ("text", c.c_char * 512)]


class _Options(c.Structure):
    _fields_ = [("size", c.c_size_t), ("brokers", c.c_char_p), ("name", c.c_char_p), ("tenant", c.c_char_p),
                ("blobs", c.c_char_p), ("window", c.c_uint32), ("jobs_max", c.c_uint32),
                ("bytes_max", c.c_uint64), ("submit_ms", c.c_int64), ("own_loop", c.c_int)]


class _Spec(c.Structure):
    _fields_ = [("size", c.c_size_t), ("kind", c.c_char_p), ("body", c.c_void_p), ("body_bytes", c.c_size_t),
                ("id", c.c_char_p), ("model", c.c_char_p), ("queue", c.c_char_p), ("tenant", c.c_char_p),
                ("memo", c.c_char_p), ("trace", c.c_char_p), ("durability", c.c_int), ("priority", c.c_uint32),
                ("run_at_ms", c.c_int64), ("ttl_ms", c.c_uint64), ("lease_ms", c.c_uint64),
                ("max_run_ms", c.c_uint64), ("attempts_max", c.c_uint32), ("crashes_max", c.c_uint32),
                ("seats_min", c.c_uint32), ("seats_max", c.c_uint32), ("deps", c.POINTER(c.c_char_p)),
                ("deps_count", c.c_size_t), ("on_failure", c.c_int), ("unique", c.c_char_p),
                ("keep_ms", c.c_uint64), ("backoff_ms", c.c_uint64), ("backoff_max_ms", c.c_uint64),
                ("limit_key", c.c_char_p), ("needs", c.c_char_p), ("memory_bytes", c.c_uint64)]


class _View(c.Structure):
    _fields_ = [("data", c.c_void_p), ("bytes", c.c_size_t)]


class _Info(c.Structure):
    _fields_ = [("size", c.c_size_t), ("id", c.c_char_p), ("state", c.c_char_p), ("why", c.c_char_p),
                ("error", c.c_char_p), ("code", c.c_int), ("attempts", c.c_uint32), ("queue_us", c.c_uint64),
                ("run_us", c.c_uint64), ("sends", c.c_uint32), ("other", c.c_char_p)]


class _Event(c.Structure):
    _fields_ = [("size", c.c_size_t), ("state", c.c_char_p), ("progress", c.c_char_p), ("log", c.c_char_p)]


_DONE = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p)
_EVENT = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(_Event), c.c_void_p)
_TEXTS = {"id", "model", "queue", "tenant", "memo", "trace", "unique", "limit_key", "needs"}
_NUMBERS = {"priority", "run_at_ms", "ttl_ms", "lease_ms", "max_run_ms", "attempts_max", "crashes_max",
            "seats_min", "seats_max", "keep_ms", "backoff_ms", "backoff_max_ms", "memory_bytes"}
_WORDS = {"durability": {"transient": 1, "durable": 2, "replicated": 3}, "on_failure": {"cancel": 0, "run": 1}}


def _load():
    library = c.CDLL(os.environ.get("MAASQ_LIBRARY", "libmaasq.so.0"))
    pointer, error = c.c_void_p, c.POINTER(_Error)
    for name, result, *arguments in (
            ("maasq_code_name", c.c_char_p, c.c_int),
            ("maasq_version", c.c_char_p),
            ("maasq_client_new", pointer, c.POINTER(_Options), error),
            ("maasq_client_free", c.c_int, c.POINTER(pointer)),
            ("maasq_connect", c.c_int, pointer, c.c_int64, error),
            ("maasq_flush", c.c_int, pointer, c.c_int64, error),
            ("maasq_fd", c.c_int, pointer),
            ("maasq_dispatch", c.c_int, pointer, error),
            ("maasq_submit", pointer, pointer, c.POINTER(_Spec), _DONE, pointer, error),
            ("maasq_open", pointer, pointer, c.c_char_p, _DONE, pointer, error),
            ("maasq_job_release", None, c.POINTER(pointer)),
            ("maasq_wait", c.c_int, pointer, c.c_int64, error),
            ("maasq_is_done", c.c_int, pointer),
            ("maasq_progress", c.c_size_t, pointer, c.c_char_p, c.c_size_t),
            ("maasq_result", c.c_int, pointer, c.POINTER(_View), error),
            ("maasq_job_info", None, pointer, c.POINTER(_Info)),
            ("maasq_on_progress", c.c_int, pointer, _EVENT, pointer, error),
            ("maasq_cancel", None, pointer, c.c_int),
            ("maasq_query", c.c_int, pointer, c.c_char_p, c.c_char_p, c.c_char_p, c.c_uint32, c.c_int64,
             c.POINTER(pointer), error),
            ("maasq_command", c.c_int, pointer, c.c_char_p, c.POINTER(c.c_char_p), c.c_size_t, c.c_int64, error),
            ("maasq_free", None, pointer),
            ("maasq_blob_put", c.c_int, pointer, c.c_char_p, c.c_size_t, c.c_char_p, error),
            ("maasq_blob_get", c.c_int, pointer, c.c_char_p, c.POINTER(pointer), c.POINTER(c.c_size_t), error)):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_lib = _load()
version = _lib.maasq_version().decode()


class Error(Exception):
    """What the library or the job says. code: "timeout", "not_found", "failed", ...; number: MAASQ_E_*."""

    def __init__(self, number, text, state="", why=""):
        self.number, self.code = number, _lib.maasq_code_name(number).decode()
        self.text, self.state, self.why = text, state, why
        super().__init__(f"{self.code}: {text}" if text else self.code)


def _check(number, error):
    if number < 0:
        raise Error(number, error.text.decode(errors="replace"))
    return number


def _bytes(body):
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _ms(timeout):
    return int(min(max(timeout, 0.0), _WAIT_MAX_S) * 1000)


# Callbacks get a number; what it stands for is kept here until the job has ended.
_open_jobs = {}
_numbers = itertools.count(1)


@_DONE
def _on_done(_handle, number):
    job = _open_jobs.pop(number, None)
    if job is not None:
        job._ended()


@_EVENT
def _on_event(_handle, event, number):
    job = _open_jobs.get(number)
    if job is not None and job._listener is not None:
        said = event.contents
        job._listener(job, {"state": (said.state or b"").decode(), "log": (said.log or b"").decode(),
                            "progress": json.loads(said.progress) if said.progress else None})


class Job:
    """A submitted job, a future. Await it when it is an AsyncClient's."""

    def __init__(self, client):
        self._client, self._handle, self._listener = client, c.c_void_p(), None
        self._number, self._callbacks, self._lock = next(_numbers), [], threading.Lock()
        self._is_over, self._future = False, None

    def _start(self, call):
        """call(done, number, error) gives the handle."""
        error = _Error()
        _open_jobs[self._number] = self
        handle = call(_on_done, self._number, c.byref(error))
        if not handle:
            _open_jobs.pop(self._number, None)
            raise Error(error.code, error.text.decode(errors="replace"))
        self._handle.value = handle
        return self

    def __del__(self):
        if self._handle:
            _lib.maasq_job_release(c.byref(self._handle))

    def _ended(self):
        with self._lock:
            self._is_over, callbacks, self._callbacks = True, self._callbacks, []
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        for callback in callbacks:
            callback(self)

    def _info(self):
        info = _Info(size=c.sizeof(_Info))
        _lib.maasq_job_info(self._handle, c.byref(info))
        return info

    @property
    def id(self):
        return self._info().id.decode()

    @property
    def state(self):
        """"sending", "queued", "leased", ..., then "succeeded", "dead", "cancelled", "expired" or "lost"."""
        return self._info().state.decode()

    @property
    def info(self):
        info = self._info()
        return {"id": info.id.decode(), "state": info.state.decode(), "why": (info.why or b"").decode(),
                "error": (info.error or b"").decode(errors="replace"),
                "code": _lib.maasq_code_name(info.code).decode(), "attempts": info.attempts,
                "queue_us": info.queue_us, "run_us": info.run_us, "sends": info.sends,
                "other": (info.other or b"").decode()}

    @property
    def progress(self):
        """Latest progress as a dict, None before there is any."""
        text = c.create_string_buffer(4097)
        return json.loads(text.value) if _lib.maasq_progress(self._handle, text, len(text)) else None

    def done(self):
        return bool(_lib.maasq_is_done(self._handle))

    def add_done_callback(self, callback):
        """callback(job) once it has ended, on the client's thread; at once when it has already."""
        with self._lock:
            if not self._is_over:
                self._callbacks.append(callback)
                return
        callback(self)

    def on_event(self, listener):
        """listener(job, {"state", "progress", "log"}) as they come, hints; None: no more."""
        error, self._listener = _Error(), listener
        function = _on_event if listener is not None else _EVENT()
        _check(_lib.maasq_on_progress(self._handle, function, self._number, c.byref(error)), error)

    def cancel(self, hard=False):
        _lib.maasq_cancel(self._handle, int(hard))

    def wait(self, timeout=None):
        """True once it has ended, False when `timeout` seconds were over first."""
        until = time.monotonic() + (_WAIT_MAX_S if timeout is None else timeout)
        while True:
            left = max(until - time.monotonic(), 0.0)
            error = _Error()
            number = _lib.maasq_wait(self._handle, min(_ms(left), _SLICE_MS), c.byref(error))
            if number == 0:
                return True
            if error.code != -9:  # MAASQ_E_TIMEOUT
                _check(number, error)
            if left == 0.0:
                return False

    def result(self, timeout=None):
        """The result's bytes. Raises Error when it failed, TimeoutError when it has not ended in time."""
        if not self.done() and not self.wait(timeout):
            raise TimeoutError(f"job {self.id} has not ended within {timeout} s")
        view, error = _View(), _Error()
        number = _lib.maasq_result(self._handle, c.byref(view), c.byref(error))
        if number < 0:
            info = self._info()
            raise Error(number, error.text.decode(errors="replace"), info.state.decode(),
                        (info.why or b"").decode())
        return c.string_at(view.data, view.bytes) if view.bytes else b""

    def __await__(self):
        if self._future is None:
            raise TypeError("a job of maasq.Client is waited for with result(); AsyncClient's are awaited")
        yield from asyncio.shield(self._future).__await__()
        return self.result(0)


class Client:
    """A connection with a thread of its own. brokers: "tcp://a:7700,tcp://b:7700"."""

    _own_loop = 0

    def __init__(self, brokers=None, name="python", tenant=None, blobs=None, **limits):
        options, error = _Options(size=c.sizeof(_Options), own_loop=self._own_loop, **limits), _Error()
        for field, text in (("brokers", brokers), ("name", name), ("tenant", tenant), ("blobs", blobs)):
            setattr(options, field, text.encode() if text is not None else None)
        self._handle = c.c_void_p(_lib.maasq_client_new(c.byref(options), c.byref(error)))
        if not self._handle:
            raise Error(error.code, error.text.decode(errors="replace"))

    def close(self):
        """Jobs that have not ended end here as "lost"; in the system they go on."""
        if self._handle:
            _lib.maasq_client_free(c.byref(self._handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _job(self):
        return Job(self)

    def _live(self):
        if not self._handle:
            raise Error(-13, "the client is closed")
        return self._handle

    def connect(self, timeout=10.0):
        error = _Error()
        _check(_lib.maasq_connect(self._live(), _ms(timeout), c.byref(error)), error)

    def flush(self, timeout=10.0):
        """Waits until no submit is unanswered."""
        error = _Error()
        _check(_lib.maasq_flush(self._live(), _ms(timeout), c.byref(error)), error)

    def submit(self, kind, body=b"", **options):
        """Queues a job and returns at once. Options: see the module."""
        data = _bytes(body)
        after = [getattr(job, "id", job).encode() for job in options.pop("after", [])]
        spec = _Spec(size=c.sizeof(_Spec), kind=kind.encode(), body=c.cast(c.c_char_p(data), c.c_void_p),
                     body_bytes=len(data), deps_count=len(after))
        spec.deps = (c.c_char_p * len(after))(*after) if after else None
        for field, value in options.items():
            if field in _WORDS:
                if value not in _WORDS[field]:
                    raise ValueError(f"{field}: {value!r} is not one of {', '.join(_WORDS[field])}")
                setattr(spec, field, _WORDS[field][value])
            elif field in _TEXTS:
                setattr(spec, field, value.encode())
            elif field in _NUMBERS:
                setattr(spec, field, int(value))
            else:
                raise TypeError(f"submit: no option {field!r}")
        return self._job()._start(
            lambda done, number, error: _lib.maasq_submit(self._live(), c.byref(spec), done, number, error))

    def open(self, job_id):
        """A job that exists already, by its id."""
        return self._job()._start(
            lambda done, number, error: _lib.maasq_open(self._live(), job_id.encode(), done, number, error))

    def run(self, kind, body=b"", timeout=None, **options):
        """submit and result."""
        return self.submit(kind, body, **options).result(timeout)

    def query(self, what, name="", filter="", limit=0, timeout=10.0):
        """The broker's answer (shared/wire/ANSWERS.md) as a dict: status, workers, jobs, job, ..."""
        error, text = _Error(), c.c_void_p()
        _check(_lib.maasq_query(self._live(), what.encode(), name.encode(), filter.encode(), limit, _ms(timeout),
                                c.byref(text), c.byref(error)), error)
        try:
            return json.loads(c.string_at(text.value))
        finally:
            _lib.maasq_free(text)

    def command(self, verb, *args, timeout=10.0):
        """An operator's action: command("pause", "default"), command("retry", job_id), ..."""
        error, texts = _Error(), (c.c_char_p * max(len(args), 1))(*[str(arg).encode() for arg in args])
        _check(_lib.maasq_command(self._live(), verb.encode(), texts, len(args), _ms(timeout), c.byref(error)), error)

    def blob_put(self, data):
        """Stores bytes, returns their name (64 hex digits)."""
        error, name = _Error(), c.create_string_buffer(65)
        _check(_lib.maasq_blob_put(self._live(), data, len(data), name, c.byref(error)), error)
        return name.value.decode()

    def blob_get(self, name):
        error, data, size = _Error(), c.c_void_p(), c.c_size_t()
        _check(_lib.maasq_blob_get(self._live(), name.encode(), c.byref(data), c.byref(size), c.byref(error)), error)
        try:
            return c.string_at(data.value, size.value) if size.value else b""
        finally:
            _lib.maasq_free(data)


class AsyncClient(Client):
    """The same in an asyncio loop, without a thread: jobs are awaited, callbacks run in the loop.
    connect, flush, query, command and blob_* would block the loop: use a Client in an executor."""

    _own_loop = 1

    def __init__(self, *args, **options):
        self._loop = asyncio.get_running_loop()
        super().__init__(*args, **options)
        self._loop.add_reader(_lib.maasq_fd(self._handle), self._dispatch)

    def _job(self):
        job = Job(self)
        job._future = self._loop.create_future()
        return job

    def _dispatch(self):
        if self._handle:
            error = _Error()
            _check(_lib.maasq_dispatch(self._handle, c.byref(error)), error)

    def submit(self, kind, body=b"", **options):
        job = super().submit(kind, body, **options)
        self._loop.call_soon(self._dispatch)
        return job

    async def run(self, kind, body=b"", timeout=None, **options):
        return await asyncio.wait_for(self.submit(kind, body, **options), timeout)

    def close(self):
        if self._handle:
            self._loop.remove_reader(_lib.maasq_fd(self._handle))
        super().close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()
