"""One workflow that declares everything there is to declare, as a file and in Python."""

from __future__ import annotations

from tenure.v1 import workflows_pb2
from tenure_client.builder import (
    Approval,
    Concurrency,
    EventTrigger,
    ForEach,
    Handler,
    Placement,
    Rate,
    Retry,
    Schemas,
    Workflow,
)

YAML = """
name: release
total_timeout: 1d
input_schema: {type: object, required: [targets]}
schemas:
  build:
    input: {type: object}
    output: {type: object, required: [path]}
output: {paths: "tasks.build.output"}
on_failure: {kind: tell, input: {to: team}, bind: {run: run.id}, retry: {max_attempts: 2}}
concurrency: {key: run.input.product, limit: 1, strategy: cancel_running}
events:
  - name: pushed
    when: event.payload.branch == 'main'
    bind: {product: event.key}
  - name: nightly
tasks:
  - key: plan
    kind: plan
    bind: {product: run.input.product}
    input: {depth: 3}
    weight: 2
    queue_timeout: 10m
    total_timeout: 2h
    heartbeat_timeout: 30s
    concurrency: {limit: 3, key: run.input.product}
    rate: {key: run.input.product, count: 5, per: 1m}
    placement:
      required: {os: linux}
      preferred: {zone: a}
      sticky: true
    retry: {max_attempts: 4, strategy: linear, total_timeout: 1h}
  - key: build
    kind: build
    depends_on: [plan]
    when: size(tasks.plan.output.targets) > 0
    for_each: {items: tasks.plan.output.targets, parallelism: 4, failures_max: 2, items_max: 500}
    bind: {target: item}
    compensation: {kind: clean, input: {}, bind: {paths: output}, attempt_timeout: 5s}
  - key: night
    timer: 30s
    depends_on: [build]
  - key: morning
    timer: {until: run.input.start}
    depends_on: [build]
  - key: checked
    signal: checked
    depends_on: [build]
  - key: scanned
    signal: {name: scanned, timeout: 1h}
    depends_on: [build]
  - key: paid
    event: {name: paid, key: run.input.product, timeout: 2d}
  - key: asked
    approval:
      question: Release it?
      quorum: 2
      approvers: [ann, bob]
      timeout: 3d
      escalate_after: 1d
      escalate_to: [chief]
    depends_on: [night, morning, checked, scanned, paid]
  - key: deploy
    workflow: {name: deploy, version: 3, until: output.healthy, repetitions_max: 5}
    depends_on: [asked]
    bind: {paths: tasks.asked.output}
    total_timeout: 6h
  - key: announce
    workflow: announce
    depends_on: [deploy]
    trigger: none_failed
  - key: tidy
    kind: tidy
    depends_on: [deploy, announce]
    trigger: all_done
"""

#: Stored runs name it: a release that computed another one would not find their workflows.
DIGEST = "sha256:69a7e466335dccd1b27ee18fe35be22a864fbf056860b0fd8aadfbd1c7490b9d"


def built() -> workflows_pb2.WorkflowDefinition:
    """The same in Python."""
    product = "run.input.product"
    with Workflow(
        "release",
        total_timeout="24h",
        input_schema={"type": "object", "required": ["targets"]},
        schemas={
            "build": Schemas(
                input={"type": "object"}, output={"type": "object", "required": ["path"]}
            )
        },
        output={"paths": "tasks.build.output"},
        on_failure=Handler(
            kind="tell", input={"to": "team"}, bind={"run": "run.id"}, retry=Retry(max_attempts=2)
        ),
        concurrency=Concurrency(key=product, limit=1, strategy="cancel_running"),
        events=[
            EventTrigger(
                name="pushed",
                when="event.payload.branch == 'main'",
                bind={"product": "event.key"},
            ),
            EventTrigger(name="nightly"),
        ],
    ) as w:
        plan = w.task(
            "plan",
            kind="plan",
            bind={"product": product},
            input={"depth": 3},
            weight=2,
            queue_timeout=600,
            total_timeout="2h",
            heartbeat_timeout=30,
            concurrency=Concurrency(limit=3, key=product, strategy="queue"),
            rate=Rate(key=product, count=5, per=60),
            placement=Placement(required={"os": "linux"}, preferred={"zone": "a"}, sticky=True),
            retry=Retry(max_attempts=4, strategy="linear", total_timeout="1h"),
        )
        build = w.task(
            "build",
            kind="build",
            after=[plan],
            when="size(tasks.plan.output.targets) > 0",
            trigger="all_succeeded",
            for_each=ForEach(
                items="tasks.plan.output.targets", parallelism=4, failures_max=2, items_max=500
            ),
            bind={"target": "item"},
            compensation=Handler(
                kind="clean", input={}, bind={"paths": "output"}, attempt_timeout=5
            ),
        )
        waits = [
            w.timer("night", 30, after=[build]),
            w.timer("morning", until="run.input.start", after=[build]),
            w.signal("checked", "checked", after=[build]),
            w.signal("scanned", "scanned", timeout="1h", after=[build]),
            w.event("paid", "paid", of=product, timeout="2d"),
        ]
        asked = w.wait(
            "asked",
            Approval(
                question="Release it?",
                quorum=2,
                approvers=["ann", "bob"],
                timeout="3d",
                escalate_after="1d",
                escalate_to=["chief"],
            ),
            after=waits,
        )
        deploy = w.call(
            "deploy",
            "deploy",
            version=3,
            until="output.healthy",
            repetitions_max=5,
            after=[asked],
            bind={"paths": "tasks.asked.output"},
            total_timeout="6h",
        )
        announce = w.call("announce", "announce", after=[deploy], trigger="none_failed")
        w.task("tidy", kind="tidy", after=[deploy, announce], trigger="all_done")
    return w.definition()
