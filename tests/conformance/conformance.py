"""Real clients against a three-node cluster on a loopback network of its own.

Each check is a function whose name says the promise. What a client prints or returns is compared;
nothing is retried here, the clients do what they do for their users.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

NODES = 3
CORES = 2
SHARDS = 32


class Cluster:
    """Three `coracle serve` processes."""

    def __init__(self, binary):
        self.binary = binary
        self.network = f"127.{160 + os.getpid() % 60}.{os.getpid() // 60 % 250}"
        self.directory = tempfile.mkdtemp(prefix="coracle-conformance-")
        self.processes = {}

    def host(self, node):
        return f"{self.network}.{node}"

    def start(self):
        members = ",".join(f"{n}={self.host(n)}" for n in range(1, NODES + 1))
        for node in range(1, NODES + 1):
            log = open(os.path.join(self.directory, f"node-{node}.log"), "wb")
            self.processes[node] = subprocess.Popen(
                [self.binary, "serve", "--node-id", str(node), "--members", members,
                 "--cores", str(CORES), "--pin", "float", "--shards", str(SHARDS),
                 "--memory", "512MiB", "--durability", "memory", "--data-dir",
                 os.path.join(self.directory, f"data-{node}")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not all(self.is_ready(node) for node in self.processes):
            if time.monotonic() > deadline:
                self.show_logs()
                raise RuntimeError("the cluster did not become ready")
            time.sleep(0.05)

    def is_ready(self, node):
        try:
            url = f"http://{self.host(node)}:7480/readyz"
            return urllib.request.urlopen(url, timeout=2).status == 200
        except OSError:
            return False

    def show_logs(self):
        for node in self.processes:
            with open(os.path.join(self.directory, f"node-{node}.log"), errors="replace") as log:
                print(f"--- node {node}", *log.readlines()[-20:], sep="\n")

    def all_alive(self):
        return all(process.poll() is None for process in self.processes.values())

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def run(*command, timeout=120, stdin=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=stdin)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def redis_cli_speaks_to_any_core_port(cluster):
    def cli(*arguments):
        return run("redis-cli", "-h", cluster.host(1), "-p", "7400", *arguments).strip()
    assert cli("PING") == "PONG"
    assert cli("SET", "cli", "value", "EX", "100") == "OK"
    assert cli("GET", "cli") == "value"
    assert 90 < int(cli("TTL", "cli")) <= 100
    assert cli("MSET", "a", "1", "b", "2", "c", "3") == "OK"
    assert cli("MGET", "a", "nosuchkey", "b", "c").split("\n") == ["1", "", "2", "3"]
    assert cli("INCRBY", "a", "41") == "42"
    assert cli("DEL", "a", "b", "c", "nosuchkey") == "3"
    assert cli("TYPE", "cli") == "string"
    assert "cluster_enabled:1" in cli("INFO")
    assert "cluster_state:ok" in cli("CLUSTER", "INFO")
    assert cli("-3", "HELLO", "3").count("proto") == 1
    assert int(cli("COMMAND", "COUNT")) > 40
    assert "ERR" in run("redis-cli", "-h", cluster.host(1), "-p", "7400", "LPUSH", "l", "x")


def redis_cli_in_cluster_mode_follows_redirections(cluster):
    commands = "".join(f"SET cluster:{n} {n}\nGET cluster:{n}\n" for n in range(50))
    output = run("redis-cli", "-c", "-h", cluster.host(2), "-p", "7401", stdin=commands)
    lines = [line for line in output.split("\n") if line and not line.startswith("->")]
    assert lines == [word for n in range(50) for word in ("OK", str(n))], output


def redis_benchmark_runs_on_the_any_core_port(cluster):
    output = run("redis-benchmark", "-h", cluster.host(1), "-p", "7400", "-t", "get,set,incr",
                 "-P", "16", "-n", "200000", "-c", "50", "-r", "10000", "-q")
    print(indent(output))
    assert output.count("requests per second") == 3, output


def redis_benchmark_runs_in_cluster_mode_on_a_core_port(cluster):
    output = run("redis-benchmark", "--cluster", "-h", cluster.host(1), "-p", "7401", "-t",
                 "get,set,incr", "-P", "16", "-n", "200000", "-c", "50", "-r", "10000", "-q")
    print(indent(output.replace("\r", "\n")[-400:]))
    assert output.count("requests per second") >= 3, output


def redis_py_cluster_reads_writes_and_pipelines(cluster):
    import redis
    from redis.cluster import ClusterNode, RedisCluster
    client = RedisCluster(startup_nodes=[ClusterNode(cluster.host(3), 7401)],
                          decode_responses=True)
    assert len(client.get_primaries()) == NODES * CORES
    for n in range(300):
        assert client.set(f"py:{n}", n, ex=1000)
    assert [client.get(f"py:{n}") for n in range(300)] == [str(n) for n in range(300)]
    assert client.incr("py:counter", 5) == 5
    assert client.set("py:counter", 1, nx=True) is None
    assert client.set("py:counter", 7, xx=True, get=True) == "5"
    assert client.mget_nonatomic([f"py:{n}" for n in range(50)]) == [str(n) for n in range(50)]
    pipeline = client.pipeline()
    for n in range(300):
        pipeline.get(f"py:{n}")
        pipeline.append(f"py:{n}", "x")
    replies = pipeline.execute()
    assert replies[0::2] == [str(n) for n in range(300)]
    assert replies[1::2] == [len(str(n)) + 1 for n in range(300)]
    assert client.getdel("py:0") == "0x" and client.get("py:0") is None
    assert client.delete("{tag}a", "{tag}b") == 0
    try:
        client.lpush("py:list", 1)
        raise AssertionError("LPUSH must be refused")
    except redis.RedisError as error:
        # The client knows from COMMAND that there is no such command.
        assert "LPUSH" in str(error), error
    client.close()


def metric_total(cluster, name):
    """The sum of a metric over all cores of all nodes."""
    total = 0
    for node in cluster.processes:
        page = urllib.request.urlopen(f"http://{cluster.host(node)}:7480/metrics", timeout=5)
        for line in page.read().decode().splitlines():
            if line.startswith(name + "{"):
                total += int(line.rsplit(" ", 1)[1])
    return total


def redis_py_reads_from_replicas_what_it_has_just_written(cluster):
    from redis.cluster import ClusterNode, RedisCluster
    client = RedisCluster(startup_nodes=[ClusterNode(cluster.host(2), 7402)],
                          decode_responses=True, read_from_replicas=True)
    assert len(client.get_primaries()) == NODES * CORES
    before = metric_total(cluster, "coracle_core_reads_by_follower_total")
    for round_number in range(3):
        for n in range(200):
            assert client.set(f"replica:{n}", f"{round_number}:{n}")
            assert client.get(f"replica:{n}") == f"{round_number}:{n}"
    assert [client.get(f"replica:{n}") for n in range(200)] == [f"2:{n}" for n in range(200)]
    # Of three holders one leads; every one gets its turn.
    answered = metric_total(cluster, "coracle_core_reads_by_follower_total") - before
    assert 400 <= answered <= 700, answered
    client.close()


def redis_py_plain_client_works_on_the_any_core_port(cluster):
    import redis
    for protocol in (2, 3):
        client = redis.Redis(cluster.host(2), 7400, protocol=protocol, decode_responses=True)
        assert client.mset({f"plain:{n}": n for n in range(100)})
        assert client.mget([f"plain:{n}" for n in range(100)]) == [str(n) for n in range(100)]
        assert client.exists(*[f"plain:{n}" for n in range(100)]) == 100
        pipeline = client.pipeline(transaction=False)
        for n in range(200):
            pipeline.set(f"echo:{n}", f"unique-{n}")
            pipeline.get(f"echo:{n}")
        assert pipeline.execute()[1::2] == [f"unique-{n}" for n in range(200)]
        assert client.dbsize() >= 300
        assert client.delete(*[f"plain:{n}" for n in range(100)]) == 100
        client.close()


def binary_memcached_client_works_on_any_core_and_core_ports(cluster):
    import bmemcached
    for port in (7400, 7401):
        # This client sends every command to each of its servers, and they are one cluster.
        client = bmemcached.Client((f"{cluster.host(2)}:{port}",))
        generator = random.Random(7)
        values = {f"bm:{port}:{n}": generator.randbytes(generator.randrange(1, 5000))
                  for n in range(200)}
        for key, value in values.items():
            assert client.set(key, value, time=1000)
        for key, value in values.items():
            assert client.get(key) == value, key
        assert client.get("bm:nosuchkey") is None
        assert not client.add(f"bm:{port}:1", b"x")
        assert client.replace(f"bm:{port}:1", b"y") and client.get(f"bm:{port}:1") == b"y"
        counter = f"bm:{port}:counter"
        client.delete(counter)
        assert client.incr(counter, 5, default=10) == 10
        assert client.incr(counter, 5) == 15
        assert client.decr(counter, 100) == 0
        value, cas = client.gets(f"bm:{port}:2")
        assert cas and client.cas(f"bm:{port}:2", b"swapped", cas)
        assert not client.cas(f"bm:{port}:2", b"again", cas)
        assert client.delete(f"bm:{port}:2") and client.get(f"bm:{port}:2") is None
        assert client.set_multi({f"bm:multi:{n}": str(n) for n in range(50)}) in ([], {})
        found = client.get_multi([f"bm:multi:{n}" for n in range(60)])
        assert found == {f"bm:multi:{n}": str(n) for n in range(50)}, found
        statistics = client.stats()
        assert all(statistics.values()), statistics
        client.disconnect_all()


def coracle_shards_lists_every_shard(cluster):
    table = run(cluster.binary, "shards", "--addr", f"{cluster.host(1)}:7480")
    print(indent("\n".join(table.split("\n")[:5])))
    listed = json.loads(run(cluster.binary, "shards", "--json", "--addr",
                            f"{cluster.host(1)}:7480"))
    assert len(listed["shards"]) == SHARDS
    digest = run(cluster.binary, "shards", "digest", "--addr", f"{cluster.host(1)}:7480")
    print(indent("\n".join(digest.strip().split("\n")[-3:])))


def indent(text):
    return "\n".join("      " + line for line in text.strip().split("\n"))


CHECKS = [
    redis_cli_speaks_to_any_core_port,
    redis_cli_in_cluster_mode_follows_redirections,
    redis_benchmark_runs_on_the_any_core_port,
    redis_benchmark_runs_in_cluster_mode_on_a_core_port,
    redis_py_cluster_reads_writes_and_pipelines,
    redis_py_reads_from_replicas_what_it_has_just_written,
    redis_py_plain_client_works_on_the_any_core_port,
    binary_memcached_client_works_on_any_core_and_core_ports,
    coracle_shards_lists_every_shard,
]


def main():
    cluster = Cluster(os.path.abspath(sys.argv[1]))
    failed = 0
    try:
        cluster.start()
        for check in CHECKS:
            try:
                check(cluster)
                assert cluster.all_alive(), "a node died"
                print(f"ok    {check.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"FAIL  {check.__name__}", flush=True)
                traceback.print_exc()
        if failed:
            cluster.show_logs()
    finally:
        cluster.stop()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
