"""The Python clients: the same words on standard input and output as those of child.rs."""

import asyncio
import socket
import ssl
import sys
import threading
import time

NAME, (HOST, PORT) = sys.argv[1], sys.argv[2].split(":")
PORT = int(PORT)
TLS = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
FILTERS_AT_ONCE = 1_000
KEEP_ALIVE = 900


def at_once(qos):
    """As many as the others have under way."""
    return 500 if qos == 2 else 10_000


def say(line):
    print(line, flush=True)


def done(wall, times=()):
    times = sorted(times) or [0]
    say(f"done {wall} {times[len(times) // 2]} {times[len(times) * 99 // 100]} 0")


def device(number):
    return f"dev/{number}/rpc", f"dev/{number}/rpc/res"


class Paho:
    """Callbacks in a thread of the library. It is waited for by looking every 0.1 s, or by an event."""

    def __init__(self, polls):
        import paho.mqtt.client as mqtt

        self.polls = polls
        self.changed = threading.Condition()
        self.replies = set()
        self.taken = 0
        self.subscribed = 0
        self.has_streams = False
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.max_inflight_messages_set(65_535)
        self.client.on_message = self.on_message
        self.client.on_subscribe = self.on_subscribe
        if TLS:
            self.client.tls_set_context(TLS)
        self.client.connect(HOST, PORT, KEEP_ALIVE)
        self.client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.loop_start()
        self.client.subscribe([("dev/+/rpc/res", 0), ("flood/data", 0)])
        self.wait(lambda: self.subscribed)

    def on_subscribe(self, *_):
        with self.changed:
            self.subscribed += 1
            self.changed.notify_all()

    def on_message(self, client, data, message):
        with self.changed:
            if message.topic == "flood/data":
                self.taken += 1
            else:
                self.replies.add(message.topic)
            self.changed.notify_all()

    def on_data(self, *_):
        with self.changed:
            self.taken += 1
            self.changed.notify_all()

    def subscribe(self, filters, callback):
        for topic in filters:
            self.client.message_callback_add(topic, callback)
        packets = [filters[first : first + FILTERS_AT_ONCE] for first in range(0, len(filters), FILTERS_AT_ONCE)]
        self.subscribed = 0
        for packet in packets:
            self.client.subscribe([(topic, 0) for topic in packet])
        self.wait(lambda: self.subscribed == len(packets))

    def wait(self, condition):
        if self.polls:
            while not condition():
                time.sleep(0.1)
        else:
            with self.changed:
                self.changed.wait_for(condition)

    def call(self, number, payload):
        command, reply = device(number)
        self.replies.discard(reply)
        self.client.publish(command, payload)
        self.wait(lambda: reply in self.replies)

    def perform(self, name, numbers):
        start = time.perf_counter()
        if name == "call":
            times = []
            for _ in range(numbers[0]):
                began = time.perf_counter()
                self.call(0, b"x" * numbers[1])
                times.append(time.perf_counter() - began)
            return done(time.perf_counter() - start, times)
        if name == "each":
            self.replies.clear()
            for number in range(numbers[0]):
                self.client.publish(device(number)[0], b"x" * 64)
            self.wait(lambda: len(self.replies) == numbers[0])
        elif name == "publish":
            count, qos, size = numbers
            payload = b"x" * size
            for first in range(0, count, at_once(qos)):
                sent = [self.client.publish("bench/data", payload, qos) for _ in range(min(at_once(qos), count - first))]
                if qos and self.polls:
                    while not all(one.is_published() for one in sent):
                        time.sleep(0.1)
                elif qos:
                    for one in sent:
                        one.wait_for_publish()
            if not qos:
                self.call(0, payload)
        elif name == "receive":
            self.taken = 0
            self.client.publish(f"flood/{numbers[0]}/{numbers[1]}", b"")
            self.wait(lambda: self.taken == numbers[0])
        elif name == "streams":
            streams, count = numbers
            if not self.has_streams:
                self.subscribe([f"spread/{number}/data" for number in range(streams)], self.on_data)
                self.has_streams = True
            self.taken = 0
            start = time.perf_counter()
            self.client.publish(f"spread/{streams}/{count}", b"")
            self.wait(lambda: self.taken == count)
        elif name == "hold":
            self.subscribe([f"held/{number}/data" for number in range(numbers[0])], lambda *_: None)
        else:
            return say("cannot")
        done(time.perf_counter() - start)

    def run(self):
        say("ready")
        for line in sys.stdin:
            name, *numbers = line.split()
            self.perform(name, [int(number) for number in numbers])


class Aio:
    """aiomqtt: paho-mqtt below, coroutines above."""

    async def run(self):
        import aiomqtt

        self.replies = {}
        self.taken = 0
        self.all_taken = asyncio.Event()
        self.wanted = 0
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        async with aiomqtt.Client(
            HOST,
            PORT,
            keepalive=KEEP_ALIVE,
            socket_options=options,
            max_inflight_messages=65_535,
            timeout=60,
            tls_context=TLS,
        ) as self.client:
            self.client.pending_calls_threshold = 1_000_000
            await self.client.subscribe([("dev/+/rpc/res", 0), ("flood/data", 0)])
            reader = asyncio.create_task(self.read())
            say("ready")
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                name, *numbers = line.split()
                await self.perform(name, [int(number) for number in numbers])
            reader.cancel()

    async def read(self):
        async for message in self.client.messages:
            topic = str(message.topic)
            if topic == "flood/data":
                self.taken += 1
                if self.taken == self.wanted:
                    self.all_taken.set()
            elif (reply := self.replies.pop(topic, None)) is not None:
                reply.set_result(message.payload)

    async def call(self, number, payload):
        command, topic = device(number)
        reply = self.replies[topic] = asyncio.get_running_loop().create_future()
        await self.client.publish(command, payload)
        await reply

    async def perform(self, name, numbers):
        start = time.perf_counter()
        if name == "call":
            times = []
            for _ in range(numbers[0]):
                began = time.perf_counter()
                await self.call(0, b"x" * numbers[1])
                times.append(time.perf_counter() - began)
            return done(time.perf_counter() - start, times)
        if name == "each":
            await asyncio.gather(*(self.call(number, b"x" * 64) for number in range(numbers[0])))
        elif name == "publish":
            count, qos, size = numbers
            payload = b"x" * size
            if qos:
                for first in range(0, count, at_once(qos)):
                    publish = lambda _: self.client.publish("bench/data", payload, qos)
                    await asyncio.gather(*map(publish, range(min(at_once(qos), count - first))))
            else:
                for _ in range(count):
                    await self.client.publish("bench/data", payload)
                await self.call(0, payload)
        elif name == "receive":
            self.taken, self.wanted = 0, numbers[0]
            self.all_taken.clear()
            await self.client.publish(f"flood/{numbers[0]}/{numbers[1]}", b"")
            await self.all_taken.wait()
        else:
            return say("cannot")
        done(time.perf_counter() - start)


if NAME == "aiomqtt":
    asyncio.run(Aio().run())
else:
    Paho(polls=NAME == "paho-poll").run()
