"""A Slurm of two nodes on this host: munge, slurmctld and two slurmd in a folder of their own, torn down after use.

Partitions: `main`; `graceful`, whose jobs are given time when they are preempted; and `urgent`, whose jobs push the
others back into the queue. Both nodes are this host under other names and ports; each claims eight CPUs, so that the
shipped scripts fit as they are. Every patience is long: the host may be busy with other things.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")
PATIENCE_SECONDS = 1800.0
"""Only there so that what never comes fails the test instead of stopping it."""
KILL_WAIT_SECONDS = 30
"""Between SIGTERM and SIGKILL, where a job is preempted: Slurm's default."""
GRACE_SECONDS = 600
"""Between SIGTERM and the end of a job that is preempted in the partition `graceful`."""
REQUEUE_PAUSE_SECONDS = 5
"""What a requeued job waits: Slurm takes it from how long credentials last, two minutes by default."""

_CONFIGURATION = """
ClusterName=foundation
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
FirstJobId={first_job}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_pause}
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
MessageTimeout=100
TCPTimeout=60
BatchStartTimeout=600
SlurmdTimeout=0
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=8
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=graceful Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that are not installed."""
    return [name for name in NEEDED if _find(name) is None]


class Cluster:
    """Starts everything and hands out commands that talk to it.

    Args:
        folder: For configuration, state and logs; its path is short, as a socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = _free_ports(3)
        (folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                folder=folder,
                host=socket.gethostname().partition(".")[0],
                user=_user_name(),
                kill_wait=KILL_WAIT_SECONDS,
                requeue_pause=REQUEUE_PAUSE_SECONDS,
                grace=GRACE_SECONDS,
                controller_port=ports[0],
                first_job=1 + ports[0] % 9_000,  # ranks meet at a port that the number of the job decides
                port_1=ports[1],
                port_2=ports[2],
            ),
            encoding="utf-8",
        )
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = [f"--{name}={self.folder / file}" for name, file in _MUNGE_FILES.items()]
        self._start("munged", "--foreground", "--force", *munge)
        wait_until(lambda: (self.folder / "munge.socket").exists(), what="munged")
        self._start("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        idle = ("sinfo", "-h", "-p", "main", "-o", "%T %D")
        wait_until(lambda: self._says("idle 2", *idle), what="two idle nodes")

    def stop(self) -> None:
        """Cancel what runs, then end the daemons, the last one first."""
        try:
            self.cancel_all()
        finally:
            for daemon in reversed(self._daemons):
                daemon.send_signal(signal.SIGTERM)
            for daemon in self._daemons:
                try:
                    daemon.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    daemon.kill()

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        self.run("scancel", f"--user={_user_name()}")
        wait_until(lambda: not self.run("squeue", "-h").strip(), what="no job")

    def run(self, *command: str, **environment: str) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str, folder: Path, **environment: str) -> str:
        """Submit a job and give its number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            env=self.environment | environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """State of a job: PENDING, RUNNING, COMPLETED, FAILED, …"""
        return self._of(job, "JobState")

    def restarts(self, job: str) -> int:
        """How often a job was put back into the queue."""
        return int(self._of(job, "Restarts"))

    def exit_code(self, job: str) -> int:
        """Of a job's script, when it is over."""
        return int(self._of(job, "ExitCode").partition(":")[0])

    def seconds(self, job: str) -> int:
        """How long a job has been running since its last start."""
        days, _, clock = self._of(job, "RunTime").rpartition("-")
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds

    def task_processes(self, job: str) -> list[int]:
        """Processes of the tasks of a job's step on both nodes."""
        return [
            int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and _is_task(folder, job)
        ]

    def _says(self, expected: str, *command: str) -> bool:
        """Whether a command works already and prints something."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip() == expected

    def _of(self, job: str, field: str) -> str:
        match = re.search(rf"\b{field}=(\S+)", self.run("scontrol", "show", "job", job))
        assert match is not None
        return match[1]

    def _start(self, *command: str) -> None:
        program = _find(command[0])
        assert program is not None
        log = (self.folder / f"{len(self._daemons)}-{command[0]}.out").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen([program, *command[1:]], env=self.environment, stdout=log, stderr=log)
            )


_MUNGE_FILES = {
    "key-file": "munge.key",
    "socket": "munge.socket",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


def wait_until(is_so: Callable[[], bool], *, what: Callable[[], str] | str, period: float = 0.2) -> None:
    """Wait for something.

    Args:
        is_so: Whether it has come.
        what: For the message, made when it is needed.
        period: Seconds between two looks.

    Raises:
        TimeoutError: It does not come.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"{what if isinstance(what, str) else what()}: not within {PATIENCE_SECONDS:g} s")
        time.sleep(period)


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _is_task(folder: Path, job: str) -> bool:
    try:
        variables = (folder / "environ").read_bytes().split(b"\0")
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    is_step = any(one.startswith(b"SLURM_STEP_ID=") for one in variables)
    return is_step and f"SLURM_JOB_ID={job}".encode() in variables and any(w.endswith(b"/foundation") for w in words)
