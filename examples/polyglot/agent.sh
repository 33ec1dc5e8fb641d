#!/usr/bin/env bash
# An agent of one task with no code at all: `buf curl` speaks the unary calls, reflection gives it the contract.
#
#   TENURE_ADDRESS=127.0.0.1:7233 TENURE_KEY=tnr_... examples/polyglot/agent.sh
#
# Field names are those of protos/tenure/v1/agents.proto in camel case; bytes are base64.
set -euo pipefail

call() { # METHOD, request on stdin; the key comes from a file descriptor, not from the command line
    buf curl --protocol grpc --http2-prior-knowledge --data @- \
        --header @<(echo "authorization: Bearer $TENURE_KEY") \
        "http://$TENURE_ADDRESS/tenure.v1.Agents/$1"
}

leases=$(call LeaseTasks <<< '{"agent": "shell-agent", "kinds": ["shout"], "maxLeases": 1, "wait": "30s"}')

# The work itself: from the answer to a lease to the report about it.
report=$(python3 -c '
import base64, json, sys
lease = json.load(sys.stdin)["batch"]["leases"][0]
given = json.loads(base64.b64decode(lease["input"]["data"]))
output = json.dumps({"text": given["text"].upper()}).encode()
ref = {name: lease[name] for name in ("runId", "taskKey", "term", "token")}
success = {"output": {"data": base64.b64encode(output).decode()}}
print(json.dumps({"results": [{"lease": ref, "success": success}]}))' <<< "$leases")

call SettleTasks <<< "$report"
