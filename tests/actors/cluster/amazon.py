"""An Amazon without machines: moto's EC2 and S3 on one host, and a host that boots for every instance they launch."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.actors.cluster.conftest import ROOT
from tests.actors.cluster.hosts import Host, Network
from tests.actors.cluster.operator import AWS, PYTHON, S3_PORT, install

REGION = "us-east-1"
SERVE = f"""
import json, sys, time
import boto3
from moto.ec2.models import ec2_backends
from moto.server import ThreadedMotoServer

ThreadedMotoServer("0.0.0.0", {S3_PORT}, verbose=False).start()
boto3.setup_default_session(region_name="{REGION}")
at = {{"endpoint_url": "http://127.0.0.1:{S3_PORT}"}}
boto3.client("s3", **at).create_bucket(Bucket="runs")
ec2 = boto3.resource("ec2", **at)
vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")
subnet = vpc.create_subnet(CidrBlock="10.77.0.0/24", AvailabilityZone="{REGION}a")
group = ec2.create_security_group(GroupName="mine", Description="mine", VpcId=vpc.id)
boto3.client("iam", **at).create_instance_profile(InstanceProfileName="pit-ray")
image = next(iter(ec2.images.limit(1)))
print(json.dumps({{"subnet": subnet.id, "group": group.id, "profile": "pit-ray", "image": image.id}}), flush=True)
(account,) = ec2_backends
backend, told = ec2_backends[account]["{REGION}"], {{}}
while True:
    for instance in backend.all_instances():
        state = instance._state.name
        if told.get(instance.id) != state:
            told[instance.id] = state
            key = backend.key_pairs[instance.key_name].material_public.decode()
            print(json.dumps({{"id": instance.id, "address": instance.private_ip, "kind": instance.instance_type,
                               "state": state, "key": key}}), flush=True)
    time.sleep(0.2)
"""


@dataclass
class Amazon:
    """What an account holds, and what has been launched in it."""

    values: dict[str, str]
    """What a user fills in: subnet, group, profile, image."""
    hosts: dict[str, Host] = field(default_factory=dict)
    """By instance, as long as its power is on."""
    kinds: list[str] = field(default_factory=list)
    """Of all that was launched, in order."""
    failure: str | None = None

    def tell(self, network: Network, operator: Host, instance: dict[str, Any]) -> None:
        """Boots or ends the host of an instance."""
        if instance["state"] == "running":
            host = network.boot(instance["address"], instance["key"])
            install(host, "gpu")
            configure(host, operator)
            self.hosts[instance["id"]] = host
            self.kinds.append(instance["kind"])
        elif instance["state"] == "terminated" and instance["id"] in self.hosts:
            network.end(self.hosts.pop(instance["id"]))


def configure(host: Host, operator: Host) -> None:
    """Where this Amazon is, and the right to use it, which on a real one the instance profile gives."""
    folder = host.home / ".aws"
    folder.mkdir()
    endpoint = f"http://{operator.address}:{S3_PORT}"
    (folder / "config").write_text(f"[default]\nregion = {REGION}\nendpoint_url = {endpoint}\n")
    keys = (f"{name.lower()} = {AWS[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    (folder / "credentials").write_text("\n".join(["[default]", *keys, ""]))


@contextmanager
def amazon(network: Network, operator: Host) -> Iterator[Amazon]:
    """An Amazon on the operator's host, with an account as a user prepares it."""
    configure(operator, operator)
    command: Sequence[str] = operator.command([PYTHON, "-c", SERVE], ROOT, **AWS)
    with (operator.home / "amazon.log").open("w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)
    assert server.stdout
    first = server.stdout.readline()
    assert first, (operator.home / "amazon.log").read_text()[-4000:]
    made, lines = Amazon(json.loads(first)), server.stdout

    def watch() -> None:
        try:
            for line in lines:
                made.tell(network, operator, json.loads(line))
        except Exception as error:
            made.failure = repr(error)
            raise

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield made
    finally:
        network.end(operator)  # with it the server, so that no host boots any more
        watching.join(60)
        server.wait(60)
