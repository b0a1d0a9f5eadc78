"""The servers that are compared: how each is started on loopback addresses and known to be ready,
how the load generator reaches it, and what processor time it has used.

Every contestant is a context manager that yields its `Servers`. Whatever goes wrong inside, or
while they start, its processes are ended and its files removed. Each process has one thread for
data unless the options say otherwise, so that processor times can be compared; etcd has no such
setting and takes the threads it likes.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
REDIS_HOST, REDIS_PORT = "127.0.0.1", 17379
MEMCACHED_HOST, MEMCACHED_PORT = "127.0.0.1", 17411
ECHO_HOST = "127.0.9.21"
ETCD_HOSTS, ETCD_PORT, ETCD_PEER_PORT = ["127.0.9.11", "127.0.9.12", "127.0.9.13"], 17479, 17480
# Its largest sensible size: nothing compacts the history of a run, and none must end for lack of
# room.
ETCD_QUOTA_BYTES = 8 << 30
CORACLE_HOSTS = [f"127.0.9.{node}" for node in range(1, 6)]
ANY_CORE_PORT, CORE_PORT, HTTP_PORT = 7400, 7401, 7480
STOP_SECONDS = 15


class Servers:
    """Processes of one contestant, and how the load generator reaches them."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="coracle-versus-")
        self.processes = []
        self.addresses = []
        self.protocol = "resp"
        self.generator_flags = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def subdirectory(self, name):
        path = os.path.join(self.directory, name)
        os.makedirs(path, exist_ok=True)
        return path

    def spawn(self, *command):
        with open(self.log_path(len(self.processes)), "wb") as log:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                                   stderr=log, cwd=self.directory))

    def log_path(self, number):
        return os.path.join(self.directory, f"log-{number}")

    def wait_for(self, what, condition, seconds=30):
        """Waits, and fails as soon as a process has ended: who answers then is somebody else."""
        deadline = time.monotonic() + seconds
        while True:
            holds = condition()
            self.check_running()
            if holds:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {seconds} s: {what}")
            time.sleep(0.05)

    def check_running(self):
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                with open(self.log_path(number), errors="replace") as log:
                    last = "".join(log.readlines()[-5:])
                raise RuntimeError(f"{process.args[0]} ended by itself with {process.returncode}: "
                                   f"is its port in use?\n{last}")

    def cpu_seconds(self):
        """Processor time of each process since its start."""
        return [cpu_seconds(process.pid) for process in self.processes]

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def ask(host, port, line):
    """What a server answers to a line, or nothing if it does not."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65536).decode(errors="replace")
    except OSError:
        return ""


def redis_command(port, directory, *more):
    return ["redis-server", "--bind", REDIS_HOST, "--port", str(port), "--save", "", "--dir",
            directory, "--daemonize", "no", *more]


def coracle_command(*flags):
    binary = os.environ.get("CORACLE", os.path.join(ROOT, "target/release/coracle"))
    return [binary, "serve", "--pin", "float", *flags]


@contextlib.contextmanager
def redis(replicas=0, persistence=("--appendonly", "no")):
    """A redis-server with so many asynchronous replicas."""
    with Servers() as servers:
        ports = [REDIS_PORT + number for number in range(replicas + 1)]
        for port in ports:
            follow = []
            if port != REDIS_PORT:
                follow = ["--replicaof", REDIS_HOST, str(REDIS_PORT), "--repl-diskless-load",
                          "on-empty-db", "--repl-diskless-sync-delay", "0"]
            directory = servers.subdirectory(f"redis-{port}")
            servers.spawn(*redis_command(port, directory, *persistence, *follow))
        servers.wait_for("redis-server answers",
                         lambda: "PONG" in ask(REDIS_HOST, REDIS_PORT, "PING"))
        for port in ports[1:]:
            servers.wait_for("the replica follows", lambda: "master_link_status:up" in ask(
                REDIS_HOST, port, "INFO replication"))
        servers.addresses = [f"{REDIS_HOST}:{REDIS_PORT}"]
        yield servers


@contextlib.contextmanager
def memcached():
    """memcached with one thread for data."""
    with Servers() as servers:
        # The user matters only if root starts it, which memcached refuses unless told.
        servers.spawn("memcached", "-t", "1", "-U", "0", "-m", "1024", "-l", MEMCACHED_HOST,
                      "-p", str(MEMCACHED_PORT), "-u", "root")
        servers.wait_for("memcached answers", lambda: ask(
            MEMCACHED_HOST, MEMCACHED_PORT, "version").startswith("VERSION"))
        servers.addresses = [f"{MEMCACHED_HOST}:{MEMCACHED_PORT}"]
        servers.protocol = "binary"
        yield servers


@contextlib.contextmanager
def coracle(options, protocol="resp-cluster", durability="memory", nodes=3, cores=None,
            shards=None, read_from="leader", memory="1GiB", flags=()):
    """So many nodes of Coracle, ready. Load that follows the map of the cluster begins at the core
    ports, other load goes to the any-core ports."""
    with Servers() as servers:
        hosts = CORACLE_HOSTS[:nodes]
        members = ",".join(f"{node}={host}" for node, host in enumerate(hosts, 1))
        for node in range(1, nodes + 1):
            servers.spawn(*coracle_command(
                "--node-id", str(node), "--members", members,
                "--cores", str(cores or options.cores), "--shards", str(shards or options.shards),
                "--memory", memory, "--durability", durability,
                "--data-dir", os.path.join(servers.directory, f"data-{node}"), *flags))
        servers.wait_for("the cluster is ready", lambda: all(is_ready(host) for host in hosts), 60)
        port = CORE_PORT if protocol == "resp-cluster" else ANY_CORE_PORT
        servers.addresses = [f"{host}:{port}" for host in hosts]
        servers.protocol = protocol
        servers.generator_flags = ["--read-from", read_from]
        yield servers


def is_ready(host):
    return ask_http(f"http://{host}:{HTTP_PORT}/readyz") is not None


def ask_http(url):
    """What a server says if it says so with status 200, else nothing."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode(errors="replace") if answer.status == 200 else None
    except OSError:
        return None


@contextlib.contextmanager
def etcd():
    """Three members of etcd, with a leader that all of them know. Load is spread over them."""
    def url(host, port):
        return f"http://{host}:{port}"

    with Servers() as servers:
        names = {host: f"member-{number}" for number, host in enumerate(ETCD_HOSTS, 1)}
        cluster = ",".join(f"{name}={url(host, ETCD_PEER_PORT)}" for host, name in names.items())
        for host, name in names.items():
            client_url, peer_url = url(host, ETCD_PORT), url(host, ETCD_PEER_PORT)
            servers.spawn("etcd", "--name", name, "--data-dir", servers.subdirectory(name),
                          "--listen-client-urls", client_url,
                          "--advertise-client-urls", client_url,
                          "--listen-peer-urls", peer_url,
                          "--initial-advertise-peer-urls", peer_url,
                          "--initial-cluster", cluster, "--initial-cluster-state", "new",
                          "--quota-backend-bytes", str(ETCD_QUOTA_BYTES),
                          "--logger", "zap", "--log-level", "warn")
        servers.wait_for("all members of etcd are healthy", lambda: all(
            '"true"' in (ask_http(url(host, ETCD_PORT) + "/health") or "")
            for host in ETCD_HOSTS), 60)
        servers.addresses = [f"{host}:{ETCD_PORT}" for host in ETCD_HOSTS]
        servers.protocol = "etcd"
        yield servers


@contextlib.contextmanager
def echo():
    """Coracle's executor and frames on one thread, without a store: what a request costs at
    least."""
    with Servers() as servers:
        binary = os.environ.get("ECHO", os.path.join(ROOT, "target/release/coracle-echo"))
        servers.spawn(binary, "--addr", f"{ECHO_HOST}:{ANY_CORE_PORT}")
        servers.wait_for("the echo server answers", lambda: "PONG" in ask(
            ECHO_HOST, ANY_CORE_PORT, "*1\r\n$4\r\nPING"))
        servers.addresses = [f"{ECHO_HOST}:{ANY_CORE_PORT}"]
        yield servers


def debian_packages(names):
    """The programs that contestants need besides Coracle, and the Debian packages they are in."""
    programs = {"redis": "redis-server", "memcached": "memcached", "etcd": "etcd"}
    packages = {"etcd": "etcd-server"}
    kinds = {name.split("-")[0] for name in names}
    needed = [program for kind, program in programs.items() if kind in kinds]
    return {program: packages.get(program, program) for program in needed}


def contestants(options):
    """Each name with what starts it."""
    always = ("--appendonly", "yes", "--appendfsync", "always")
    # One core leads everything, so its any-core port is the shortest way: unlike the core port it
    # does not look up whether another core leads a key.
    one = {"nodes": 1, "cores": 1}
    return {
        "redis": redis,
        "redis-async": lambda: redis(replicas=2),
        "redis-always": lambda: redis(replicas=2, persistence=always),
        "memcached": memcached,
        "echo": echo,
        "etcd": etcd,
        "coracle-one": lambda: coracle(options, "resp", **one),
        "coracle-one-binary": lambda: coracle(options, "binary", **one),
        "coracle": lambda: coracle(options),
        "coracle-any": lambda: coracle(options, "resp"),
        "coracle-replicas": lambda: coracle(options, read_from="replica"),
        "coracle-shard": lambda: coracle(options, shards=1),
        "coracle-shard-replicas": lambda: coracle(options, shards=1, read_from="replica"),
        "coracle-fsync": lambda: coracle(options, durability="fsync"),
        "coracle-fsync-any": lambda: coracle(options, "resp", durability="fsync"),
    }
