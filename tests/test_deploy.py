"""What stands around the service, in deploy/: each file tried by the program that reads it, where that is installed."""

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.containers import COMPOSE, free_port, run
from tests.support.processes import served

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/vae.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$job": "vae", "$instance": ".*", "$route": ".*"}

compose = pytest.mark.skipif(shutil.which(COMPOSE[0]) is None, reason="Compose is not installed")
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")


def query(text: str) -> str:
    """A query of the dashboard, as Grafana sends it."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    assert "$" not in text, text
    return text


# Compose.


@compose
@pytest.mark.parametrize("profiles", [(), ("proxy",), ("monitoring",), ("proxy", "monitoring")])
def test_compose_reads_its_file_with_every_profile(profiles: tuple[str, ...]) -> None:
    valid = run(*COMPOSE, *(word for profile in profiles for word in ("--profile", profile)), "config", "-q")
    assert valid.returncode == 0, valid.stderr


@compose
def test_every_service_is_confined_and_says_exactly_which_image_it_is() -> None:
    said = run(*COMPOSE, "--profile", "proxy", "--profile", "monitoring", "config").stdout
    block = re.search(r"^services:\n((?: .*\n)+)", said, re.MULTILINE)
    assert block
    sections = re.split(r"^  (?=\w)", block[1], flags=re.MULTILINE)
    services = {section.partition(":")[0]: section for section in sections}
    for name in ("vae", "vae-a", "vae-b", "proxy", "prometheus", "grafana"):
        for line in ("read_only: true", "- ALL", "- no-new-privileges:true", "pids_limit: 128", "mem_limit: "):
            assert line in services[name], services[name]
        image = re.search(r"^    image: (.+)$", services[name], re.MULTILINE)
        assert image and re.fullmatch(r"vae-server|[\w/]+:v?\d+\.\d+\.\d+(-\w+)?", image[1])


def test_nothing_is_published_beyond_this_machine_unless_asked_for() -> None:
    published = re.findall(r'^      - "(.+:\d+)"$', (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert len(published) == 4
    assert all(one.startswith(("127.0.0.1:", "${HOST:-127.0.0.1}:")) for one in published)


def test_grafana_finds_what_it_is_given() -> None:
    composed = (ROOT / "docker-compose.yml").read_text()
    where = re.search(r"path: (\S+)", (DEPLOY / "grafana/provisioning/dashboards/files.yml").read_text())
    assert where
    assert f"./deploy/grafana/dashboards:{where[1]}:ro" in composed
    assert f"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: {where[1]}/vae.json" in composed
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    assert "url: http://prometheus:9090" in source
    interval = re.search(r"timeInterval: (\w+)", source)
    assert interval
    assert f"scrape_interval: {interval[1]}\n" in (DEPLOY / "prometheus/prometheus.yml").read_text()
    assert "ADMIN_PASSWORD:\n" in composed


# Prometheus' own tests of its files.


@promtool
@pytest.mark.parametrize("what", ["check config prometheus.yml", "check rules rules.yml", "test rules rules.test.yml"])
def test_promtool_finds_nothing_wrong(what: str) -> None:
    done = subprocess.run(
        ["promtool", *what.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_has_tests() -> None:
    tests = (DEPLOY / "prometheus/rules.test.yml").read_text()
    for name in re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/rules.yml").read_text()):
        assert re.search(rf'alertname="{name}"|alertname: {name}\n( .*\n)+? +exp_alerts:', tests), name


# The dashboard.


def test_the_dashboard_is_one_that_grafana_takes_as_it_is() -> None:
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 41
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
        "route",
    ]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["type"] in {"stat", "gauge", "timeseries", "heatmap", "table"}
        assert panel["title"] and panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        unit = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert panel["type"] == "table" or unit["unit"]


def test_no_two_panels_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}

    for one, other in itertools.combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


# All of it beside a service that is used.


def use(address: str) -> None:
    """Each call once; one that cannot end in time, and one that is none."""
    rows = {"inputs": [[0.5] * 8] * 8}
    batch = {"inputs": [rows["inputs"]] * 3}
    for path in ("/encode", "/reconstruct", "/free-energy?samples=4"):
        assert httpx2.post(f"{address}{path}", json=batch).status_code == 200
    latent = len(httpx2.post(f"{address}/encode", json=batch).json()["mean"][0])
    assert httpx2.post(f"{address}/decode", json={"latents": [[0.0] * latent]}).status_code == 200
    for path in ("/sample?n=5", "/model", "/health/ready", "/metrics"):
        assert httpx2.get(f"{address}{path}").status_code == 200
    assert httpx2.get(f"{address}/nothing").status_code == 404
    refused = httpx2.post(f"{address}/encode", json=batch, headers={"X-Request-Timeout": "0.000001"})
    assert refused.status_code == 413


@pytest.fixture(scope="module")
def service(saved: Callable[[str], Path]) -> Iterator[str]:
    """The address of a service that has been used."""
    # Nobody reads its log: a line for each request would fill the pipe, and stop it.
    with served(saved("grey-mlp-discretized"), VAE_LOG_LEVEL="warning") as (address, process):
        use(address)
        yield address
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def metrics(service: str) -> set[str]:
    """The names of all that it tells."""
    return set(re.findall(r"^(vae_\w+)", httpx2.get(f"{service}/metrics").text, re.MULTILINE))


@pytest.mark.parametrize("file", ["prometheus/rules.yml", "prometheus/rules.test.yml", "grafana/dashboards/vae.json"])
def test_nothing_asks_for_a_metric_that_is_none(file: str, metrics: set[str]) -> None:
    # A record's name has a colon; in the dashboard, the tag and the name of the service have no underscore.
    asked = set(re.findall(r"(?<![\w:])vae_\w+(?![\w:])", (DEPLOY / file).read_text()))
    assert asked
    assert asked <= metrics


def test_every_metric_is_on_the_dashboard(metrics: set[str]) -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    for name in metrics:
        family = re.sub(r"_(bucket|sum|count|total)$", "", name)
        assert family.endswith("_created") or re.search(rf"\b{family}(_bucket|_sum|_count|_total)?\b", shown), name


class Prometheus:
    """A Prometheus that scrapes every second and goes by the rules of deploy/."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **params: str) -> Any:
        answer = httpx2.get(f"{self.address}/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def has(self, asked: str) -> bool:
        """Whether there is any number; an error is a failure."""
        return any(sample["value"][1] != "NaN" for sample in self.get("query", query=asked)["result"])


@pytest.fixture(scope="module")
def prometheus(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus/rules.yml")],
        "scrape_configs": [
            {"job_name": "vae", "static_configs": [{"targets": [service.removeprefix("http://")]}]},
        ],
    }
    (folder / "config.yml").write_text(json.dumps(config))  # which is YAML too
    options = {
        "config.file": folder / "config.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)
    assert process.returncode == 0, (folder / "log").read_text()


def until_all_have_data(asked: set[str], prometheus: Prometheus, service: str) -> None:
    """Use the service until each of these has a number, for a minute at most: a rate needs two scrapes."""
    deadline = time.monotonic() + 60
    while True:
        use(service)
        try:
            asked = {one for one in asked if not prometheus.has(one)}
        except httpx2.TransportError:  # it is still starting
            assert time.monotonic() < deadline
        if not asked:
            return
        assert time.monotonic() < deadline, asked
        time.sleep(0.5)


def test_every_panel_shows_something(prometheus: Prometheus, service: str) -> None:
    asked = {query(target["expr"]) for panel in PANELS for target in panel["targets"]}
    assert len(asked) >= len(PANELS)
    until_all_have_data(asked, prometheus, service)


def test_every_variable_has_values_and_every_annotation_is_understood(prometheus: Prometheus, service: str) -> None:
    until_all_have_data({"vae_ready", "vae_requests_total"}, prometheus, service)
    for variable in DASHBOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query(variable["query"]["query"]))
        assert found
        assert prometheus.get(f"label/{found[2]}/values", **{"match[]": found[1]}), variable["name"]
    for annotation in DASHBOARD["annotations"]["list"][1:]:
        prometheus.get("query", query=query(annotation["expr"]))  # nothing need have happened


def test_every_rule_has_something_to_look_at(prometheus: Prometheus, service: str) -> None:
    """Records, and both sides of what alerts compare: an alert itself has no number where all is well."""
    until_all_have_data({"vae_ready"}, prometheus, service)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    asked = {rule["query"] for rule in rules if rule["type"] == "recording"}
    asked |= {rule["name"] for rule in rules if rule["type"] == "recording"}
    for alert in alerts:
        absent = re.fullmatch(r"absent\((.+)\)", alert["query"])
        sides = [absent[1]] if absent else re.split(r" (?:==|<|>) ", alert["query"])
        assert absent or len(sides) == 2, alert["query"]
        # Nobody waits here for a day.
        asked |= {side.replace("offset 1d", "offset 1s") for side in sides if not re.fullmatch(r"[\d.]+", side)}
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"] and len(alert["annotations"]["description"]) > 80
    assert len(alerts) >= 10
    until_all_have_data(asked, prometheus, service)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []
