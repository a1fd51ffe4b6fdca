"""client/python/maasq.py against a running system; python_api.sh starts it."""
import asyncio
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../client/python"))
import maasq  # noqa: E402

WAIT_S = 120


class Sync(unittest.TestCase):
    def setUp(self):
        self.client = maasq.Client()
        self.client.connect(WAIT_S)

    def tearDown(self):
        self.client.close()

    def test_a_result_comes_back_byte_for_byte(self):
        for body in (b"", bytes(range(256)), b"x" * 100000):
            self.assertEqual(self.client.run("echo", body, timeout=WAIT_S), body)
        self.assertEqual(self.client.run("echo", "Gr\u00fc\u00dfe", timeout=WAIT_S).decode(), "Gr\u00fc\u00dfe")
        self.assertEqual(self.client.run("echo", {"a": [1, 2]}, timeout=WAIT_S), b'{"a": [1, 2]}')

    def test_kinds_of_ones_own_given_to_maasq_up(self):
        self.assertEqual(self.client.run("up.case", "loud", timeout=WAIT_S), b"LOUD")

    def test_many_jobs_and_their_callbacks(self):
        seen, all_seen = [], threading.Event()

        def done(job):
            seen.append(job.id)
            if len(seen) == 200:
                all_seen.set()

        jobs = [self.client.submit("echo", b"%d" % i) for i in range(200)]
        for job in jobs:
            job.add_done_callback(done)
        self.assertEqual([job.result(WAIT_S) for job in jobs], [b"%d" % i for i in range(200)])
        self.assertTrue(all_seen.wait(WAIT_S))
        self.assertEqual(sorted(seen), sorted(job.id for job in jobs))

    def test_a_failure_says_its_code_and_state(self):
        with self.assertRaises(maasq.Error) as caught:
            self.client.run("sleep", {"ms": "x"}, timeout=WAIT_S)
        self.assertEqual((caught.exception.state, caught.exception.why), ("dead", "error"))
        self.assertIn("ms", caught.exception.text)
        with self.assertRaises(maasq.Error) as caught:
            self.client.open("01ARZ3NDEKTSV4RRFFQ69G5FAV").result(WAIT_S)
        self.assertEqual(caught.exception.code, "not_found")
        with self.assertRaises(maasq.Error) as caught:
            self.client.submit("k" * 100)
        self.assertEqual(caught.exception.code, "bad_argument")
        self.assertRaises(TypeError, self.client.submit, "echo", b"", colour="red")
        self.assertRaises(ValueError, self.client.submit, "echo", b"", durability="soft")

    def test_progress_timeout_and_cancel(self):
        running, events = threading.Event(), []
        job = self.client.submit("sleep", {"ms": 600000, "progress": True})

        def listen(_job, event):
            events.append(event)
            if event["progress"]:
                running.set()

        job.on_event(listen)
        self.assertTrue(running.wait(WAIT_S))
        self.assertFalse(job.done())
        self.assertFalse(job.wait(0.3))
        self.assertRaises(TimeoutError, job.result, 0.1)
        self.assertEqual(job.progress["ms"], 600000)
        elsewhere = maasq.Client()
        self.addCleanup(elsewhere.close)
        other = elsewhere.open(job.id)
        job.cancel()
        for one in (job, other):
            with self.assertRaises(maasq.Error) as caught:
                one.result(WAIT_S)
            self.assertEqual((caught.exception.code, caught.exception.state), ("cancelled", "cancelled"))

    def test_options_questions_commands_blobs(self):
        first = self.client.submit("echo", b"1", priority=9, tenant="py", attempts_max=2)
        second = self.client.submit("echo", b"2", after=[first], durability="durable")
        self.assertEqual(second.result(WAIT_S), b"2")
        said = self.client.query("job", first.id, timeout=WAIT_S)
        self.assertEqual((said["tenant"], said["priority"], said["attempts_max"]), ("py", 9, 2))
        self.assertGreaterEqual(self.client.query("status", timeout=WAIT_S)["workers"]["count"], 1)
        with self.assertRaises(maasq.Error):
            self.client.command("retry", first.id, timeout=WAIT_S)  # it is not dead
        name = self.client.blob_put(b"some bytes")
        self.assertEqual(self.client.blob_get(name), b"some bytes")
        info = first.info
        self.assertEqual((info["state"], info["why"], info["code"]), ("succeeded", "ok", "ok"))

    def test_a_closed_client_ends_its_jobs(self):
        client = maasq.Client()
        job = client.submit("sleep", {"ms": 600000}, unique="close-test")
        client.flush(WAIT_S)
        client.close()
        with self.assertRaises(maasq.Error) as caught:
            job.result(WAIT_S)
        self.assertEqual((caught.exception.code, job.state), ("cancelled", "lost"))
        self.assertRaises(maasq.Error, client.submit, "echo")
        again = self.client.open(job.id)  # in the system it goes on
        again.cancel()
        with self.assertRaises(maasq.Error) as caught:
            again.result(WAIT_S)
        self.assertEqual(caught.exception.state, "cancelled")


class Async(unittest.IsolatedAsyncioTestCase):
    async def test_jobs_are_awaited_in_the_loop(self):
        async with maasq.AsyncClient() as client:
            jobs = [client.submit("echo", b"%d" % i) for i in range(100)]
            self.assertEqual(await asyncio.gather(*jobs), [b"%d" % i for i in range(100)])
            self.assertEqual(await client.run("echo", b"again", timeout=WAIT_S), b"again")
            self.assertEqual(threading.active_count(), 1)

    async def test_progress_and_cancel_in_the_loop(self):
        async with maasq.AsyncClient() as client:
            job, running = client.submit("sleep", {"ms": 600000, "progress": True}), asyncio.Event()
            job.on_event(lambda _job, event: running.set() if event["progress"] else None)
            await asyncio.wait_for(running.wait(), WAIT_S)
            job.cancel()
            with self.assertRaises(maasq.Error) as caught:
                await asyncio.wait_for(job, WAIT_S)
            self.assertEqual(caught.exception.state, "cancelled")

    async def test_a_timeout_of_asyncio_leaves_the_job_alone(self):
        async with maasq.AsyncClient() as client:
            job = client.submit("sleep", {"ms": 1500})
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(job, 0.05)
            self.assertIn(b"slept_ms", await asyncio.wait_for(job, WAIT_S))


if __name__ == "__main__":
    unittest.main()
