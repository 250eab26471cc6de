"""Measure the service and its peers with the same weights, payloads and core: `make bench`, or `ONLY=mosec` for one.

Each server runs alone on the first core, with one worker and one thread; wrk sends requests from another core. All
servers serve the encoder of a shipped model: one image of 28 x 28 per request, answered by mean and variance of Q. The
first answer of each is compared with torch. mosec, LitServe, BentoML, MLServer and Ray Serve compute with the ONNX
Runtime of the service, in batches of up to 64 that wait 1 ms for more rows. `naive FastAPI` computes with torch,
without batches. `vae-server standard` is this service's own engine and batcher behind uvicorn's protocol
(VAE_HTTP=standard) instead of the fast path. RESULTS.md has the results.
"""

import argparse
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from torch import nn

from model import checkpoint
from model.datasets import open_dataset
from model.vae import VAE, to_tensor

HERE = Path(__file__).parent
PEERS = HERE / "peers"
MODELS = {"mlp": "fashion-mnist-mlp", "conv": "fashion-mnist"}
TOLERANCE = 1e-3
#: Pairs of alternating loads of two servers whose ratio counts: a slow minute of the machine slows both.
PAIRS = 5


@dataclass(frozen=True)
class Server:
    """Command and interface of a server."""

    name: str
    command: list[str]  # {port} and {model} are filled in
    path: str = "/encode"
    bodies: tuple[str, ...] = ("json",)
    own: bool = False  # runs in the environment of the service
    v2: bool = False  # its JSON follows the Open Inference Protocol
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Its name for the command line and for files."""
        return self.name.lower().replace(" ", "-")


SERVERS = [
    Server(
        "vae-server",
        ["vae", "serve", "{checkpoint}", "--port", "{port}", "--threads", "1"],
        bodies=("json", "npy"),
        own=True,
        environment={"VAE_HTTP": "fast"},
    ),
    Server(
        "vae-server standard",
        ["vae", "serve", "{checkpoint}", "--port", "{port}", "--threads", "1"],
        bodies=("json", "npy"),
        own=True,
        environment={"VAE_HTTP": "standard"},
    ),
    Server(
        "bare uvicorn",
        ["uvicorn", "bare:app", "--port", "{port}", "--no-access-log", "--log-level", "warning"],
        bodies=("json", "npy"),
        own=True,
    ),
    Server(
        "naive FastAPI",
        ["uvicorn", "naive:app", "--port", "{port}", "--no-access-log", "--log-level", "warning"],
        own=True,
    ),
    Server(
        "mosec",
        ["python", "mosec_server.py", "--port", "{port}", "--address", "127.0.0.1"],
        path="/inference",
        bodies=("json", "npy"),
    ),
    Server("LitServe", ["python", "litserve_server.py"]),
    Server("BentoML", ["bentoml", "serve", "bentoml_server:Encode", "--port", "{port}", "--host", "127.0.0.1", "-q"]),
    Server("MLServer", ["python", "mlserver_server.py"], path="/v2/models/encode/infer", v2=True),
    Server("Ray Serve", ["python", "ray_server.py"]),
]


class Encoder(nn.Module):
    """n x height x width -> mean and variance of Q."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = self.vae.encode(x.unsqueeze(1))
        return q.mean, q.scale.square()


@dataclass
class Model:
    """One shipped model as every server needs it, and what it must answer."""

    kind: str
    name: str
    folder: Path
    image: np.ndarray = field(init=False)
    mean: np.ndarray = field(init=False)
    variance: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        vae = checkpoint.load(Path(self.name)).vae
        encoder = Encoder(vae)
        images = to_tensor(open_dataset("fashion-mnist:test").load()[:1024])[:, 0]
        self.image = images[:1].numpy()
        with torch.inference_mode():
            self.mean, self.variance = (part.numpy() for part in encoder(images[:1]))
        torch.onnx.export(
            encoder,
            (images[:2],),
            str(self.onnx),
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "rows"}},
        )
        rounded = [[[round(float(v), 4) for v in row] for row in image] for image in self.image]
        self.body("json").write_text(json.dumps({"inputs": rounded}))
        values = [v for row in rounded[0] for v in row]
        v2 = {"inputs": [{"name": "x", "shape": [1, 28, 28], "datatype": "FP32", "data": values}]}
        self.body("v2").write_text(json.dumps(v2))
        np.save(self.body("npy"), self.image)
        np.save(self.body("rows"), images.numpy())
        self.answer("json").write_text(json.dumps({"mean": self.mean.tolist(), "variance": self.variance.tolist()}))
        with self.answer("npy").open("wb") as file:
            np.savez(file, mean=self.mean, variance=self.variance)

    @property
    def onnx(self) -> Path:
        return self.folder / f"{self.kind}.onnx"

    def body(self, form: str) -> Path:
        return self.folder / f"{self.kind}.body.{'json' if form in {'json', 'v2'} else 'npy'}.{form}.npy"

    def answer(self, form: str) -> Path:
        return self.folder / f"{self.kind}.answer.{form}"

    def check(self, body: bytes, server: Server) -> None:
        """Refuse an answer that is not this model's."""
        if body[:2] == b"PK":
            with np.load(io.BytesIO(body)) as file:
                mean, variance = file["mean"], file["variance"]
        else:
            document = json.loads(body)
            if server.v2:
                parts = {output["name"]: output["data"] for output in document["outputs"]}
                mean, variance = parts["mean"], parts["variance"]
            elif isinstance(document, list):
                mean, variance = document[0]["mean"], document[0]["variance"]
            else:
                mean, variance = document["mean"], document["variance"]
        for ours, theirs in ((self.mean, mean), (self.variance, variance)):
            np.testing.assert_allclose(np.ravel(theirs), ours.ravel(), rtol=TOLERANCE, atol=TOLERANCE)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(server: Server, model: Model, form: str, core: int, python: Path) -> Iterator[tuple[str, float, int]]:
    """Run a server. Yields its address, the seconds until its first correct answer, and its process group."""
    port = free_port()
    fill = {"port": port, "checkpoint": model.name}
    program, *rest = [part.format(**fill) for part in server.command]
    command = ["taskset", "-c", str(core), str(python.with_name(program)), *rest]
    environment = os.environ | {
        "PORT": str(port),
        "MODEL": str(model.onnx),
        "CHECKPOINT": model.name,
        "THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "ANSWER": str(model.answer(form)),
        "BODY": form,
        "PYTHONPATH": str(PEERS),
        "VAE_LOG_LEVEL": "warning",
        **server.environment,
    }
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=PEERS, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}{server.path}"
            wait(process, address, model, server, form, log)
            yield address, time.perf_counter() - started, process.pid
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server and all its processes."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    time.sleep(0.5)


def wait(process: "subprocess.Popen[bytes]", address: str, model: Model, server: Server, form: str, log: Any) -> None:
    """Wait for the first answer, which must be correct."""
    until = time.perf_counter() + 120
    while True:
        try:
            request = urllib.request.Request(address, model.body(wire(server, form)).read_bytes(), headers(form))
            with urllib.request.urlopen(request, timeout=10) as answer:
                body = answer.read()
        except OSError as error:
            if process.poll() is not None or time.perf_counter() > until:
                log.seek(0)
                raise RuntimeError(f"{error}: {log.read().decode()[-2000:]}") from error
            time.sleep(0.02)
        else:
            model.check(body, server)
            return


def wire(server: Server, form: str) -> str:
    return "v2" if server.v2 and form == "json" else form


def headers(form: str) -> dict[str, str]:
    if form in {"npy", "rows"}:
        return {"Content-Type": "application/x-npy", "Accept": "application/x-npz"}
    return {"Content-Type": "application/json", "Accept": "application/json"}


def load(address: str, body: Path, form: str, connections: int, seconds: float, core: int) -> dict[str, float]:
    """Return the requests per second and latencies in milliseconds that wrk measures."""
    sent = headers(form)
    environment = os.environ | {"BODY_FILE": str(body), "CONTENT_TYPE": sent["Content-Type"], "ACCEPT": sent["Accept"]}
    command = [
        "taskset",
        "-c",
        str(core),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "30s",
        "-s",
        str(HERE / "post.lua"),
        address,
    ]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    line = json.loads(done.stdout.strip().splitlines()[-1])
    rate = line["requests"] / line["seconds"]
    return {"rate": rate, "p50": line["p50"] / 1e3, "p99": line["p99"] / 1e3, "bad": line["bad"]}


def memory(group: int) -> float:
    """Return the resident megabytes of a process group, shared pages counted once (proportional set size)."""
    total = 0.0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and os.getsid(int(folder.name)) == group:
                found = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                total += int(found.group(1)) / 1e3 if found else 0
        except (OSError, ProcessLookupError):
            continue
    return total


def measure(server: Server, model: Model, seconds: float, cores: tuple[int, int], python: Path) -> dict[str, Any]:
    """Measure all loads of a server."""
    row: dict[str, Any] = {}
    for form in server.bodies:
        with running(server, model, form, cores[0], python) as (address, start, group):
            row.setdefault("start", start)
            body = model.body(wire(server, form))
            load(address, body, form, 16, 1, cores[1])
            connections = (1, 8, 64, 256) if server.name == "vae-server" else (1, 8, 64)
            for count in connections:
                row[f"{form} {count}"] = load(address, body, form, count, seconds, cores[1])
            row.setdefault("memory", memory(group))
            if server.name == "vae-server" and form == "npy":
                row |= ours(address, model, seconds, cores[1], group)
    return row


def ours(address: str, model: Model, seconds: float, core: int, group: int) -> dict[str, Any]:
    """Measure what only the service is asked for: many rows, free energies, and growth of memory."""
    score = address.replace("/encode", "/free-energy?samples=16")
    found: dict[str, Any] = {
        # A request takes seconds, so a short load would have too few of them for a rate.
        "rows 4": load(address, model.body("rows"), "rows", 4, 6 * seconds, core),
        "free energy 64": load(score, model.body("npy"), "npy", 64, seconds, core),
    }
    before, asked = memory(group), 0.0
    if model.kind == "mlp":
        while asked < 200_000:
            asked += 10 * load(address, model.body("npy"), "npy", 64, 10, core)["rate"]
        found["memory after"] = {"requests": asked, "before": before, "after": memory(group)}
    return found


def beside(peer: Server, model: Model, seconds: float, cores: tuple[int, int], python: Path) -> dict[str, list[float]]:
    """Return the service's requests per second over the peer's at 64 connections: one ratio per pair, by body."""
    found: dict[str, list[float]] = {}
    for form in peer.bodies:
        started = (
            running(SERVERS[0], model, form, cores[0], Path(sys.executable)),
            running(peer, model, form, cores[0], python),
        )
        with started[0] as (ours, *_), started[1] as (theirs, *_):
            ratios = []
            for turn in range(PAIRS + 1):
                both = {ours: 0.0, theirs: 0.0}
                for address in sorted(both, reverse=bool(turn % 2)):
                    body = model.body(wire(peer, form)) if address == theirs else model.body(form)
                    both[address] = load(address, body, form, 64, seconds, cores[1])["rate"]
                ratios.append(both[ours] / both[theirs])
            found[f"{form} 64"] = ratios[1:]  # the first pair is the warm-up
    return found


def environment(name: str) -> Path:
    """Return the Python of a peer's environment, which is made from its pinned requirements if it is missing."""
    folder = HERE / ".venvs" / name
    python, listed = folder / "bin" / "python", PEERS / f"{name}.txt"
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != listed.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(listed)]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"does not install: {done.stderr.strip()[-500:]}")
        stamp.write_text(listed.read_text())
    return python


def ceiling(model: Model, core: int) -> dict[str, Any]:
    command = ["taskset", "-c", str(core), sys.executable, str(HERE / "ceilings.py"), model.name, "auto"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", help="name of a server; only its row is measured")
    parser.add_argument("--seconds", type=float, default=5, help="duration of each load")
    parser.add_argument("--out", type=Path, default=HERE.parent)
    given = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; run apt-get install wrk")
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        sys.exit("this needs two cores: one for the server, one for wrk")
    cores = available[0], available[1]
    wanted = set(given.only or ())
    if unknown := wanted - {server.slug for server in SERVERS}:
        sys.exit(f"unknown: {', '.join(unknown)}; servers are {', '.join(server.slug for server in SERVERS)}")
    results = report.Results.read(given.out / "results.json")
    results.seconds = given.seconds
    with tempfile.TemporaryDirectory() as folder:
        models = [Model(kind, name, Path(folder)) for kind, name in MODELS.items()]
        for model in models:
            results.ceilings[model.kind] = ceiling(model, cores[0])
        for server in SERVERS:
            if wanted and server.slug not in wanted:
                continue
            for model in models:
                print(f"{server.name}, {model.kind} ...", flush=True)
                try:
                    python = Path(sys.executable) if server.own else environment(server.slug)
                    row = measure(server, model, given.seconds, cores, python)
                    if server.name in report.PAIRED:
                        row["pairs"] = beside(server, model, max(1, given.seconds // 2), cores, python)
                except (RuntimeError, AssertionError, OSError, subprocess.CalledProcessError) as error:
                    row = {"failed": str(error)[-500:]}
                results.rows.setdefault(server.name, {})[model.kind] = row
                print(json.dumps(row), flush=True)
                results.write(given.out)


if __name__ == "__main__":
    main()
