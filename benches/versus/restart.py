"""How long a server that was killed takes until it serves again what it held.

One server of each kind is filled once; redis-server writes its RDB file, Coracle has its log. Both
are killed, and then started again in turn. The files are in the page cache for both.
"""

import contextlib
import os
import socket
import sys
import time

from contestants import (ANY_CORE_PORT, CORACLE_HOSTS, REDIS_HOST, REDIS_PORT, Servers, ask,
                         coracle_command, redis_command)
from load import generate
from report import spread

PROBES = 64
SERVED_SECONDS = 300


class Restarted(Servers):
    """A server that is filled once and then killed and started again."""

    def __init__(self, name, keys, options):
        super().__init__()
        self.name, self.keys, self.options = name, keys, options
        self.host, self.port = {
            "redis": (REDIS_HOST, REDIS_PORT),
            "coracle": (CORACLE_HOSTS[0], ANY_CORE_PORT),
        }[name]
        self.addresses = [f"{self.host}:{self.port}"]
        self.data = self.subdirectory("data")

    def start(self):
        if self.name == "redis":
            self.spawn(*redis_command(self.port, self.data, "--appendonly", "no"))
        else:
            self.spawn(*coracle_command("--members", f"1={self.host}", "--data-dir", self.data,
                                        "--memory", "8GiB", "--cores", str(os.cpu_count())))

    def kill(self):
        process = self.processes.pop()
        process.kill()
        process.wait()

    def fill(self):
        self.start()
        self.wait_for("it answers", self.serves_nothing_yet, 60)
        generate(self, self.options, "--prefill", "--requests", "1000", keys=self.keys)
        if self.name == "redis":
            with socket.create_connection((self.host, self.port), SERVED_SECONDS) as connection:
                connection.sendall(b"SAVE\r\n")
                answer = connection.recv(64)
            if not answer.startswith(b"+OK"):
                raise RuntimeError(f"redis-server does not save: {answer}")
        self.wait_until_served()
        self.kill()

    def measure(self):
        """Seconds from the start of the process until it serves."""
        began = time.monotonic()
        self.start()
        self.wait_until_served()
        seconds = time.monotonic() - began
        self.kill()
        return seconds

    def serves_nothing_yet(self):
        return ask(self.host, self.port, "GET key:nothing").startswith("$-1")

    def wait_until_served(self):
        """Until one connection has read keys that lie all over."""
        deadline = time.monotonic() + SERVED_SECONDS
        while True:
            serves = self.serves_all()
            self.check_running()
            if serves:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not serve what it held")
            time.sleep(0.001)

    def serves_all(self):
        request = b"".join(b"GET key:%012d\r\n" % (number * self.keys // PROBES)
                           for number in range(PROBES))
        value_bytes = self.options.value_bytes
        answer_bytes = PROBES * (len(f"${value_bytes}\r\n") + value_bytes + 2)
        answer = b""
        try:
            with socket.create_connection((self.host, self.port), 5) as connection:
                connection.sendall(request)
                while len(answer) < answer_bytes:
                    more = connection.recv(1 << 16)
                    answer += more
                    if not more or b"\r\n-" in answer or answer.startswith((b"-", b"$-1")):
                        return False
        except OSError:
            return False
        return len(answer) == answer_bytes

    def files_bytes(self):
        sizes = [os.path.getsize(os.path.join(folder, name))
                 for folder, _, names in os.walk(self.data) for name in names]
        return sum(sizes)


def measure_restarts(options):
    """A row for each number of keys and server."""
    rows = []
    for keys in options.restart_keys:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Restarted(name, keys, options))
                       for name in ("redis", "coracle")]
            for server in servers:
                server.fill()
            rows += measure_restarts_of(servers, keys, options)
    return rows


def measure_restarts_of(servers, keys, options):
    seconds = {server.name: [] for server in servers}
    for round_number in range(1, options.rounds + 1):
        for server in servers:
            seconds[server.name].append(server.measure())
            print(f"restart {keys} keys round {round_number} {server.name}: "
                  f"{seconds[server.name][-1]:.3f} s", file=sys.stderr, flush=True)
    base = spread(seconds[servers[0].name])[0]
    rows = []
    for server in servers:
        median, low, high = spread(seconds[server.name])
        rows.append({"operation": "restart", "keys": keys, "contestant": server.name,
                     "seconds": median, "seconds_low": low, "seconds_high": high,
                     "ratio": median / base, "files_bytes": server.files_bytes(),
                     "rounds": seconds[server.name]})
    return rows
