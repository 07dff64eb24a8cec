"""The metrics keep to Prometheus's conventions, and the page, the dashboard and the alerts speak of them alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import known
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rc_push.measures import BOUNDS_S, Durations
from rc_push.metrics import exposition
from rc_push.transports import Expiries

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "monitoring.md").read_text("utf-8")
ALERTS = DOCS / "monitoring" / "alerts.yml"
RULES = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((DOCS / "monitoring" / "grafana.json").read_text("utf-8"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
# Source: https://prometheus.io/docs/practices/naming/, base units.
UNITS = ("seconds", "bytes")
NO_UNITS = re.compile(r"milli|micro|minutes|hours|days|kilo|mega|percent|_ms\b|_mb\b")


def durations(*took_s):
    measured = Durations()
    for each in took_s:
        measured.add(each)
    return measured.statistics()


@pytest.fixture(scope="module")
def text():
    """Return an exposition in which everything is known."""
    receiver = known.receiver(
        by_origin={"live": 4, "recovered": 3},
        gaps={"possible": 2},
        connections=3,
        expiries=Expiries(known.NOW + 86_400, known.NOW + 900),
    )
    dispatcher = known.dispatcher(calls=durations(0.002, 0.3, 99.0))
    journal = known.journal(max_bytes=10_000_000, commits=durations(0.001))
    return exposition(known.everything([receiver], [dispatcher], journal=journal), known.facts()).decode()


@pytest.fixture(scope="module")
def families(text):
    """Return the families of ours, by name as the page spells it: a counter with its `_total`."""
    found = {
        f"{one.name}_total" if one.type == "counter" else one.name: one for one in text_string_to_metric_families(text)
    }
    return {name: one for name, one in found.items() if name.startswith("rc_push_")}


def value(families, name, **labels):
    (sample,) = [one for one in families[name].samples if one.labels == labels and not one.name.endswith("_created")]
    return sample.value


def test_the_figures_are_those_of_the_parts(families):
    assert value(families, "rc_push_events_received_total", subscription="team", origin="recovered") == 3
    assert value(families, "rc_push_reconnects_total", subscription="team", transport="websocket") == 2
    assert value(families, "rc_push_gaps_total", subscription="team", certainty="possible") == 2
    assert value(families, "rc_push_gaps_total", subscription="team", certainty="certain") == 0
    assert value(families, "rc_push_gaps_open", subscription="team") == 1
    assert value(families, "rc_push_subscription_state", subscription="team", state="live") == 1
    assert value(families, "rc_push_subscription_state", subscription="team", state="down") == 0
    assert value(families, "rc_push_certificate_expires_timestamp_seconds", subscription="team") == known.NOW + 86_400
    assert value(families, "rc_push_subscription_expires_timestamp_seconds", subscription="team") == known.NOW + 900
    assert value(families, "rc_push_token_expires_timestamp_seconds", account="main") == known.NOW + 3600
    assert value(families, "rc_push_subscription_served", subscription="team") == 1
    assert value(families, "rc_push_rest_budget", account="main", group="auth") == 3
    assert value(families, "rc_push_handler_lag_seconds", handler="old") == 71.5
    assert value(families, "rc_push_journal_limit_bytes") == 10_000_000


def test_a_histogram_is_cumulative_and_whole(families):
    samples = families["rc_push_delivery_duration_seconds"].samples
    buckets = [(float(one.labels["le"]), one.value) for one in samples if one.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == [*BOUNDS_S, float("inf")]
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert dict(buckets)[0.0025] == 1
    assert dict(buckets)[60.0] == 2
    assert buckets[-1][1] == 3
    (total,) = [one.value for one in samples if one.name.endswith("_sum")]
    assert total == pytest.approx(99.302)


def test_what_is_not_known_has_no_sample():
    text = exposition(known.everything(), known.facts()).decode()
    for name in (
        "subscription_expires_timestamp_seconds",
        "certificate_expires_timestamp_seconds",
        "journal_limit_bytes",
    ):
        assert re.search(rf"^rc_push_{name}[ {{]", text, re.MULTILINE) is None


def test_names_and_units_are_by_the_conventions(text, families):
    for name, family in families.items():
        assert re.fullmatch(r"rc_push(_[a-z]+)+", name), name
        assert not NO_UNITS.search(name), name
        assert name.endswith("_total") == (family.type == "counter"), name
        assert family.documentation.endswith((".", "1.")), name
        if "duration" in name or "timestamp" in name or "lag" in name:
            assert name.endswith("_seconds"), name
        for unit in UNITS:
            assert f"_{unit}_" not in name or name.endswith("_total"), name
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & {"instance", "job", "uuid", "position"}, name
    assert text.count("# HELP ") == text.count("# TYPE ") == len(set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE)))


def test_what_others_wrote_is_in_no_label(families):
    allowed = {
        *("subscription", "handler", "account", "state", "origin", "certainty", "transport", "group", "version", "le")
    }
    assert {label for one in families.values() for sample in one.samples for label in sample.labels} <= allowed


# ---------------------------------------------------------------------------------- the page, the dashboard, the alerts


def table(heading):
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    return {re.findall(r"`(\w+)`", row[0])[0]: row for row in rows}


def labels_of(family):
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def test_every_metric_is_documented_with_its_labels_and_no_other(families):
    documented = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in table("Metrics").items()}
    assert documented == {name: labels_of(family) for name, family in families.items()}


def names_in(expression):
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\brc_push_\w+", expression)}


def expressions():
    """Return every query of the dashboard, as Prometheus would get it."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [one.replace("$instance", ".*").replace("$__rate_interval", "1m") for one in found]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist_alone(families):
    asked = {
        name for expression in [*expressions(), *(rule["expr"] for rule in RULES)] for name in names_in(expression)
    }
    assert asked <= families.keys()
    assert len(asked) > 25


def test_labels_that_are_asked_for_exist(families):
    for expression in [*expressions(), *(rule["expr"] for rule in RULES)]:
        for name, selector in re.findall(r"\b(rc_push_\w+)\{([^}]*)\}", expression):
            family = families[re.sub(r"_(bucket|sum|count)$", "", name)]
            labels = set(re.findall(r"(\w+)=", selector)) - {"instance", "job"}
            assert labels <= labels_of(family), expression


def test_values_of_labels_that_are_asked_for_exist(families):
    states = {
        name: {sample.labels["state"] for sample in families[name].samples}
        for name in ("rc_push_subscription_state", "rc_push_handler_state")
    }
    for expression in [*expressions(), *(rule["expr"] for rule in RULES)]:
        for name, selector in re.findall(r"\b(rc_push_\w+_state)\{([^}]*)\}", expression):
            for wanted in re.findall(r'state=~?"([^"]*)"', selector):
                assert set(wanted.split("|")) <= states[name], expression


def test_the_panels_of_the_dashboard_have_places_and_numbers_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24


def test_every_alert_is_documented_and_no_other():
    assert list(table("Alerts")) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


# ------------------------------------------------------------------------------------------------------------- promtool


def promtool(*arguments, stdin=""):
    done = subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_nothing_to_say_about_the_metrics(text):
    assert promtool("check", "metrics", stdin=text).strip() == ""


@needs_promtool
def test_promtool_takes_the_alerts_and_the_queries_of_the_dashboard(tmp_path):
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(ALERTS))
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions())]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


@needs_promtool
def test_the_alerts_fire_for_what_they_are_named_after_and_not_before(tmp_path):
    def firing(alert, at, summary="", **labels):
        found = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}] if labels else []
        return {"alertname": alert, "eval_time": at, "exp_alerts": found}

    def series(name, values):
        return {"series": name, "values": values}

    states = [
        series(f'rc_push_subscription_state{{subscription="team",state="{state}"}}', values)
        for state, values in {"live": "1x9 0x30", "down": "0x9 1x30", "degraded": "0x40"}.items()
    ]
    handlers = [
        series(f'rc_push_handler_state{{handler="crm",state="{state}"}}', values)
        for state, values in {
            "running": "1x9 0x30",
            "failing": "0x9 1 0 1 0 1 0 1 0 1x20",
            "trying": "0x9 0 1 0 1 0 1 0 1 0x20",
            "paused": "0x40",
        }.items()
    ]
    warning = {"severity": "warning"}
    nothing, missing = "nothing has been received over team for five minutes", "events of team are missing"
    fails, behind = "the handler crm fails, its events wait", "the handler crm is 6m 40s behind"
    tests = [
        firing("RcPushSubscriptionDown", "9m"),
        firing("RcPushSubscriptionDown", "20m", nothing, severity="critical", subscription="team"),
        firing("RcPushHandlerFailing", "9m"),
        firing("RcPushHandlerFailing", "20m", fails, handler="crm", **warning),
        firing("RcPushHandlerBehind", "30m", behind, handler="crm", instance="a", **warning),
        firing("RcPushEventsMissing", "9m"),
        firing("RcPushEventsMissing", "20m", missing, subscription="team", certainty="certain", **warning),
    ]
    served = [series('rc_push_subscription_served{subscription="team"}', "1x9 0x30")]
    lag = [
        series('rc_push_handler_lag_seconds{handler="crm",instance="a"}', "400x40"),
        series('rc_push_handler_lag_seconds{handler="idle",instance="a"}', "400x40"),
        series('rc_push_handler_state{handler="idle",instance="a",state="paused"}', "1x40"),
        series('rc_push_gaps_total{subscription="team",certainty="certain"}', "0x9 1x30"),
    ]
    content = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": [*states, *served, *handlers, *lag], "alert_rule_test": tests}],
    }
    path = tmp_path / "alerts_test.yml"
    path.write_text(yaml.safe_dump(content))
    promtool("test", "rules", str(path))
