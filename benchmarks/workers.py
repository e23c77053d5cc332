"""One process for each engine: its thread pool and its memory are its own, and the runs take turns."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import common

_SERVE = "--serve"
Run = Callable[[Any], Any]  # takes what the parent sends and returns something for JSON


def serve(open_run: Callable[[dict[str, Any]], Run]) -> bool:
    """What a benchmark calls first: in a worker process it serves its parent and then returns True."""
    if sys.argv[1:2] != [_SERVE]:
        return False
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get among the answers
    run = open_run(json.loads(sys.argv[2]))
    print("{}", file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        value = run(request)
        answer = {
            "seconds": time.perf_counter() - start,
            "value": value,
            "peak_mib": peak_mib(),
        }
        print(json.dumps(answer), file=answers)
    return True


def peak_mib() -> float:
    """The largest resident size of this process or of a program that it ran."""
    return max(common.peak_memory_mib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


class Ended(Exception):
    """A worker's process is gone."""


class Worker:
    """A process that has loaded one engine and waits."""

    def __init__(self, script: str, job: Mapping[str, Any]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        self._process = subprocess.Popen(
            [sys.executable, script, _SERVE, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_until_ready(self) -> None:
        self._answer()

    def ask(self, request: Any = None) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Ended(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Measured:
    """What the runs of one engine gave."""

    value: Any = None  # of the warm-up
    seconds: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)  # of the timed runs
    peak_mib: float = 0.0

    @property
    def spread(self) -> common.Spread:
        return common.Spread.of(self.seconds)


class Workers:
    """The workers of one setting; a context, so that none outlives it."""

    def __init__(self, script: str, jobs: Iterable[Mapping[str, Any]]) -> None:
        self._workers: dict[str, Worker] = {}
        self._script = script
        self._jobs = list(jobs)

    def __enter__(self) -> "Workers":
        try:
            for job in self._jobs:  # one after the other: loading is work too
                self._workers[job["engine"]] = worker = Worker(self._script, job)
                self._try(job["engine"], worker.wait_until_ready)
        except BaseException:
            self.close()
            raise
        return self

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        """Leaves an engine out whose process has crashed, so that the others are measured all the same."""
        try:
            return act()
        except Ended as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
            self._workers.pop(name).close()
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def values(self, request: Any = None) -> dict[str, Any]:
        """What one run of each engine gives."""
        answers = {
            name: self._try(name, partial(worker.ask, request))
            for name, worker in list(self._workers.items())
        }
        return {name: answer["value"] for name, answer in answers.items() if answer is not None}

    def measure(self, rounds: int, request: Any = None) -> dict[str, Measured]:
        """One warm-up each, then `rounds` rounds; every round starts with another engine."""
        measured = {name: Measured(value=value) for name, value in self.values(request).items()}
        names = list(measured)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                answer = self._workers[name].ask(request)
                measured[name].seconds.append(answer["seconds"])
                measured[name].values.append(answer["value"])
                measured[name].peak_mib = answer["peak_mib"]
        return measured


def script_of(module_file: str) -> str:
    return str(Path(module_file).resolve())
