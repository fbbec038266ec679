"""A real Slurm on this one machine, on loopback only: a controller and a few simulated nodes, in tests with GPUs.

    python slurm/mini/cluster.py start      then: python sweeps/launch.py grid=smoke profile=mini
    python slurm/mini/cluster.py start --accounting       with a database behind it, so that sacct works
    python slurm/mini/cluster.py stop       ends everything and leaves nothing behind

Works as root or as an ordinary user, without systemd and without cgroups. Everything lives in one folder
(MTRL_MINI_SLURM, by default /tmp/mtrl-mini-slurm-<user>), which must be reachable by all because munge insists on it.
Nodes are n0, n1, ...; partition `main` is the default; jobs in `high` preempt jobs in `low`, which are requeued.
Slurm's mail is written to log/mail in that folder. Packages: slurmctld slurmd slurm-client munge; for accounting also
slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PACKAGES = "slurmctld slurmd slurm-client munge"
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
ACCOUNTING_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
SYSTEM_PATH = "/usr/sbin:/sbin"

USER_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"
CONFIGURATION = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg={folder}/etc/mail
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
{accounting}
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0,defer_batch
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
MinJobAge={min_job_age}
SlurmctldTimeout=10
SlurmdTimeout={node_timeout}
MessageTimeout=4
InactiveLimit=0
ReturnToService=2
MaxArraySize={max_array}
MaxJobCount={max_jobs}
{nodes}
PartitionName=main Nodes={all} Default=YES MaxTime=UNLIMITED DefaultTime=10 DefMemPerCPU=100 PriorityTier=10 \
PreemptMode=OFF
PartitionName=low Nodes={all} MaxTime=60 DefaultTime=10 DefMemPerCPU=100 PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={grace}
PartitionName=high Nodes={all} MaxTime=60 DefaultTime=10 DefMemPerCPU=100 PriorityTier=20 PreemptMode=OFF
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageEnforce=limits"""
DATABASE_DAEMON = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
"""


MAIL = """\
#!/bin/sh
echo "$@" >> {folder}/log/mail
"""


class MiniSlurmError(RuntimeError):
    """The cluster cannot run here; the message says why and names the cure."""


@dataclass(frozen=True)
class MiniSlurm:
    """One such cluster. The limits have Slurm's own defaults."""

    folder: Path
    nodes: int = 4
    cpus: int = 8  # per node; may be more than the machine has
    memory: int = 8_000  # MiB per node
    gpus: int = 4  # per node; each a /dev/tty*, which exists everywhere
    port: int = 0  # of the controller; node i listens on port + 1 + i; 0 finds a free range
    grace: int = 0  # seconds between the TERM and the KILL of a preempted job in `low`
    kill_wait: int = 3  # seconds between TERM and KILL at cancellation and at the time limit
    node_timeout: int = 5  # seconds of silence after which a node is down
    max_array: int = 1_001
    max_jobs: int = 10_000
    min_job_age: int = 300  # seconds that a job stays in the queue after its end
    accounting: bool = (
        False  # a MariaDB and a slurmdbd, so that there is sacct; the user belongs to account `lab`
    )

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with SLURM_CONF and PATH for this cluster."""
        configuration = str(self.folder / "etc/slurm.conf")
        return {**os.environ, "PATH": f"{os.environ['PATH']}:{SYSTEM_PATH}", "SLURM_CONF": configuration}

    def start(self) -> None:
        """Starts the daemons that do not run yet and waits until every node is up. Raises MiniSlurmError."""
        require_programs(accounting=self.accounting)
        if not (self.folder / "etc/slurm.conf").exists():
            self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_database()
        self.start_controller()
        for node in range(self.nodes):
            self.start_node(node)
        self._wait("all nodes", self._nodes_are_up)

    def stop(self) -> None:
        """Ends every process of the cluster, including jobs, and removes the folder."""
        for node in range(self.nodes):
            self.kill_daemon(node)
        self.kill_controller()
        self._end("slurmdbd", "slurmdbd", signal.SIGKILL)
        self._end("mariadb", "mariadbd", signal.SIGKILL)  # the folder goes, and its data with it
        self._end("munged", "munged")
        for step in self._step_daemons():
            _kill_tree(step)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_node(self, node: int) -> None:
        """Kills a node: its daemon, its step daemons and everything that they run."""
        self.kill_daemon(node)
        for path in (self.folder / f"spool/n{node}").glob(f"n{node}_*.*"):
            job = path.name.partition("_")[2].partition(".")[0]
            for step in self._step_daemons(job):
                _kill_tree(step)
            path.unlink(missing_ok=True)

    def kill_daemon(self, node: int) -> None:
        """Kills only the node's daemon; its jobs continue."""
        self._end(f"slurmd-n{node}", "slurmd", signal.SIGKILL)

    def start_node(self, node: int) -> None:
        """Starts the node's daemon if it does not run."""
        if self._process(f"slurmd-n{node}", "slurmd") is None:
            (self.folder / f"spool/n{node}").mkdir(parents=True, exist_ok=True)
            self._run("slurmd", "-N", f"n{node}")

    def kill_controller(self) -> None:
        """Kills the controller; jobs continue."""
        self._end("slurmctld", "slurmctld", signal.SIGKILL)

    def start_controller(self) -> None:
        """Starts the controller if it does not run, and waits until it answers."""
        if self._process("slurmctld", "slurmctld") is None:
            self._run("slurmctld")
        self._wait("slurmctld", lambda: not self._call("scontrol", "ping").returncode)

    def set_user_signal(self, on: bool) -> None:
        """Sets whether preempted jobs get the signal that they asked for (--signal); takes effect at once."""
        path = self.folder / "etc/slurm.conf"
        lines = [line for line in path.read_text().splitlines() if line != USER_SIGNAL]
        path.write_text("\n".join([*([USER_SIGNAL] if on else []), *lines, ""]))
        self._call("scontrol", "reconfigure")

    def log(self) -> str:
        """The ends of all daemons' logs."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in (self.folder / "log").glob("*.log")
        )

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("etc", "log", "run", "state", "munge", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(0o755)
        self.folder.chmod(0o755)
        (self.folder / "etc/mail").write_text(MAIL.format(folder=self.folder))
        (self.folder / "etc/mail").chmod(0o755)
        port = self.port or _free_ports(self.nodes + 2)
        host, database = socket.gethostname().partition(".")[0], port + self.nodes + 1
        if self.accounting:
            text = DATABASE_DAEMON.format(
                host=host, port=database, user=getpass.getuser(), folder=self.folder
            )
            (self.folder / "etc/slurmdbd.conf").touch(mode=0o600)
            (self.folder / "etc/slurmdbd.conf").write_text(text)
        accounting = "AccountingStorageType=accounting_storage/none"
        nodes = [
            f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1 + node} CPUs={self.cpus} "
            f"RealMemory={self.memory}{f' Gres=gpu:fake:{self.gpus}' if self.gpus else ''} State=UNKNOWN"
            for node in range(self.nodes)
        ]
        text = CONFIGURATION.format(
            host=host,
            port=port,
            folder=self.folder,
            user=getpass.getuser(),
            accounting=ACCOUNTING.format(port=database, folder=self.folder)
            if self.accounting
            else accounting,
            min_job_age=self.min_job_age,
            kill_wait=self.kill_wait,
            node_timeout=self.node_timeout,
            max_array=self.max_array,
            max_jobs=self.max_jobs,
            grace=self.grace,
            nodes="\n".join(nodes),
            all=f"n[0-{self.nodes - 1}]",
        )
        devices = [
            f"NodeName=n{node} Name=gpu Type=fake File=/dev/tty[0-{self.gpus - 1}]"
            for node in range(self.nodes)
        ]
        (self.folder / "etc/gres.conf").write_text("\n".join(devices if self.gpus else []) + "\n")
        (self.folder / "etc/cgroup.conf").write_text("ConstrainCores=no\n")
        (self.folder / "etc/slurm.conf").write_text(text)

    def _start_munge(self) -> None:
        if self._process("munged", "munged") is not None:
            return
        key = self.folder / "munge/key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
        place = self.folder / "munge"
        (place / "socket").unlink(missing_ok=True)
        self._run(
            "munged", f"--key-file={key}", f"--socket={place}/socket", f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log", f"--seed-file={place}/seed", "--num-threads=2",
        )  # fmt: skip
        self._wait("munged", (place / "socket").exists)

    def _start_database(self) -> None:
        """Starts MariaDB on a Unix socket and slurmdbd, and puts this user into the account `lab`."""
        folder, user = self.folder, getpass.getuser()
        # Temporary files apart: a server that starts removes those of every other in its folder.
        place = [f"--datadir={folder}/database", f"--tmpdir={folder}/database-tmp"]
        for name in ("database", "database-tmp"):
            (folder / name).mkdir(exist_ok=True)
        if not (folder / "database/mysql").exists():
            self._run("mariadb-install-db", "--no-defaults", f"--user={user}", *place,
                      "--auth-root-authentication-method=normal", "--skip-test-db")  # fmt: skip
        if self._process("mariadb", "mariadbd") is None:
            with (folder / "log/mariadb.log").open("a") as log:
                subprocess.Popen(
                    ["mariadbd", "--no-defaults", f"--user={user}", *place,
                     f"--socket={folder}/run/mariadb.sock", f"--pid-file={folder}/run/mariadb.pid",
                     "--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M",
                     "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"],
                    env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self._wait("mariadb", (folder / "run/mariadb.sock").exists)
        if self._process("slurmdbd", "slurmdbd") is None:
            self._run("slurmdbd", MYSQL_UNIX_PORT=f"{folder}/run/mariadb.sock")  # read by its client library
        self._wait("slurmdbd", lambda: not self._call("sacctmgr", "list", "cluster").returncode)
        for words in (["cluster", "mini"], ["account", "lab"], ["user", user, "account=lab"]):
            self._call(
                "sacctmgr", "--immediate", "add", *words
            )  # says so, and no more, where it is there already

    def _nodes_are_up(self) -> bool:
        states = self._call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").stdout.split()
        return len([state for state in states if state in ("idle", "mixed", "allocated")]) >= self.nodes

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise MiniSlurmError(f"{what} did not come up within {seconds:.0f} s:\n{self.log()}")
            time.sleep(0.05)

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30)

    def _run(self, *words: str, **variables: str) -> None:
        # Daemons inherit their output: to a file, not to a pipe that would never close.
        environment = {**self.environment, **variables}
        with (self.folder / "log/start.log").open("a") as log:
            done = subprocess.run(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30
            )
        if done.returncode:
            raise MiniSlurmError(f"{words[0]} did not start:\n{self.log()}")

    def _process(self, name: str, program: str) -> int | None:
        """The process id in the pid file `name`, if that process lives and is `program`; else None."""
        try:
            pid = int((self.folder / f"run/{name}.pid").read_text())
            return pid if program in _command(pid) else None
        except (OSError, ValueError):
            return None

    def _end(self, name: str, program: str, number: int = signal.SIGTERM) -> None:
        pid = self._process(name, program)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            end = time.monotonic() + 3
            while program in _command(pid):  # a dead process that nobody has reaped yet has no command
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
        (self.folder / f"run/{name}.pid").unlink(missing_ok=True)

    def _step_daemons(self, job: str = "") -> Iterator[int]:
        """The process ids of this cluster's step daemons, or of those of one job.

        They outlive slurmd; they are known by their working folder, the cluster's log folder.
        """
        for place in Path("/proc").iterdir():
            if place.name.isdigit() and _command(int(place.name)).startswith(
                f"slurmstepd: [{job}{'.' if job else ''}"
            ):
                with suppress(OSError):
                    if (place / "cwd").readlink() == self.folder / "log":
                        yield int(place.name)


def require_programs(*, accounting: bool = False) -> None:
    """Raises MiniSlurmError, with what to install, if one of Slurm's programs is missing."""
    path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    packages = PACKAGES + (f" {ACCOUNTING_PACKAGES}" if accounting else "")
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        raise MiniSlurmError(
            f"{', '.join(missing)} not found; on Debian or Ubuntu: apt-get install {packages}"
        )


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill_tree(pid: int) -> None:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text().split():
                _kill_tree(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def outgoing_ports() -> tuple[int, int]:
    """The first and the last port that the kernel gives to outgoing connections; Linux's default if it does not say."""
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        return 32_768, 60_999
    return low, high


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports.

    The kernel gives outgoing connections ports of a range of its own, and may take one before a daemon listens there.
    So that range comes last.
    """
    low, high = outgoing_ports()
    starts = random.sample(range(10_000, 65_000, 50), 1_100)  # at random, so that two clusters do not meet
    for first in sorted(starts, key=lambda start: low < start + count and start <= high):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
            return first
    raise MiniSlurmError("no free ports on loopback")


def main() -> None:
    """The command line: start or stop the cluster."""
    default = f"/tmp/mtrl-mini-slurm-{getpass.getuser()}"
    folder = Path(os.environ.get("MTRL_MINI_SLURM", default))
    # No GPUs: a job that gets one fails if torch sees none.
    cluster = MiniSlurm(folder, gpus=0, accounting="--accounting" in sys.argv)
    match sys.argv[1:]:
        case ["start"] | ["start", "--accounting"]:
            try:
                cluster.start()
            except MiniSlurmError as error:
                sys.exit(str(error))
            print(f"export SLURM_CONF={cluster.folder}/etc/slurm.conf")
        case ["stop"]:
            cluster.stop()
        case _:
            sys.exit("usage: python slurm/mini/cluster.py start [--accounting] | stop")


if __name__ == "__main__":
    main()
